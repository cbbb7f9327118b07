// Who isn't let in, and why.

import { DEADLINE_MS, leave, picture, run, says } from "../browser.mjs";

export async function doors(browser) {
  const path = `/?project=${browser.project}&session=doors`;

  await browser.check("a wrong token shows the form, and the right one opens", async () => {
    const page = await browser.openAt(`${path}#token=wrong`);
    await page.getByText("refuses this token").waitFor({ timeout: DEADLINE_MS });
    await picture(page, "form");
    await page.getByLabel("Owner’s token").fill(browser.token);
    await page.keyboard.press("Enter");
    await run(page, "echo let in $((1 + 1))", "let in 2");
    await leave(page);
  });

  await browser.check("without a token the form asks for one", async () => {
    const page = await browser.openAt(path);
    await page.getByLabel("Owner’s token").waitFor({ timeout: DEADLINE_MS });
    await page.context().close();
  });

  await browser.check("an address that names no project says so", async () => {
    const page = await browser.openAt("/?project=..");
    await says(page, "names no project");
    await page.context().close();
  });

  await browser.check("a session that doesn't run can't be viewed, and that is said", async () => {
    const page = await browser.open("nobody", { view: true });
    await says(page, "tries again");
    await page.context().close();
  });
}
