// Bundles src/ into dist/: names with a content hash, and beside each file its brotli and gzip forms where they are smaller.
// dist/ appears whole or not at all. Knows nothing of the server, which embeds what it finds there.

import { build } from "esbuild";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const web = dirname(fileURLToPath(import.meta.url));
const made = join(web, "node_modules/.dist");
const dist = join(web, "dist");

await rm(made, { recursive: true, force: true });
await mkdir(made);

const { metafile } = await build({
  absWorkingDir: web,
  entryPoints: ["src/main.ts"],
  outdir: join(made, "assets"),
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  bundle: true,
  splitting: true,
  minify: true,
  metafile: true,
  format: "esm",
  target: ["es2022"],
  logLevel: "warning",
});

const entry = Object.entries(metafile.outputs).find(([, output]) => output.entryPoint === "src/main.ts");
const [script, { cssBundle: style }] = entry;
let html = await readFile(join(web, "src/index.html"), "utf8");
for (const [source, output] of [['src="main.ts"', script], ['href="main.css"', style]]) {
  if (!html.includes(source)) throw new Error(`src/index.html: no ${source} to replace`);
  html = html.replace(source, source.replace(/".*"/, `"/assets/${basename(output)}"`));
}
await writeFile(join(made, "index.html"), html);
await writeFile(join(made, "favicon.svg"), await readFile(join(web, "src/favicon.svg")));

for (const folder of [made, join(made, "assets")]) {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isFile()) await compress(join(folder, entry.name));
  }
}

await rm(dist, { recursive: true, force: true });
await rename(made, dist);

async function compress(path) {
  const plain = await readFile(path);
  const brotli = brotliCompressSync(plain, {
    params: { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY, [constants.BROTLI_PARAM_SIZE_HINT]: plain.length },
  });
  const gzip = gzipSync(plain, { level: constants.Z_BEST_COMPRESSION });
  for (const [end, coded] of [["br", brotli], ["gz", gzip]]) {
    if (coded.length < plain.length) await writeFile(`${path}.${end}`, coded);
  }
  console.log(`${path.slice(made.length + 1).padEnd(32)} ${plain.length} B, brotli ${brotli.length}, gzip ${gzip.length}`);
}
