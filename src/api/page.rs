//! The page at `/` and the files it loads, embedded by `build.rs`: which file a path names, in which form it is sent,
//! and the headers that fence the page in. Knows no project, no session and no token: the page finds its way by itself.

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

/// A file of the page.
struct File {
    /// Its path in the page's folder.
    name: &'static str,
    /// Its media type.
    kind: &'static str,
    plain: Form,
    brotli: Option<Form>,
    gzip: Option<Form>,
}

/// A file as it goes over the wire, and the strong ETag of exactly these bytes.
struct Form {
    etag: &'static str,
    bytes: &'static [u8],
}

const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// The file at `/` and `/p/<project>`.
const INDEX: &str = "index.html";

/// Files below this have their content's hash in their name.
const HASHED: &str = "assets/";

/// For a year and without asking again: another content has another name.
const CACHE_HASHED: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// Ask each time; the answer is mostly 304.
const CACHE_NAMED: HeaderValue = HeaderValue::from_static("no-cache");

/// On every answer. Scripts, styles and connections from this server alone, nothing else from anywhere, and no frame
/// around it. `'unsafe-inline'` for styles: xterm.js writes style elements and attributes of its own, which no hash can
/// foresee; its scripts need no exception, and it hands the browser no text to be read as HTML or code
/// (`trusted-types`).
const FENCE: [(HeaderName, HeaderValue); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        ),
    ),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// `GET` and `HEAD` of the page's paths; others are left to the next filter.
pub(crate) fn page() -> BoxedFilter<(Response,)> {
    warp::path::full()
        .and_then(|path: warp::path::FullPath| async move { find(path.as_str()).ok_or_else(warp::reject::not_found) })
        .and(warp::get().or(warp::head()).unify())
        .and(warp::header::headers_cloned())
        .map(answer)
        .boxed()
}

fn find(path: &str) -> Option<&'static File> {
    let path = path.strip_prefix('/')?;
    let name = match path.strip_prefix("p/") {
        Some(project) if is_last_segment(project) => INDEX,
        _ if path.is_empty() => INDEX,
        _ if path == INDEX => return None,
        _ => path,
    };
    FILES.iter().find(|file| file.name == name)
}

fn is_last_segment(rest: &str) -> bool {
    let segment = rest.strip_suffix('/').unwrap_or(rest);
    !segment.is_empty() && !segment.contains('/')
}

fn answer(file: &'static File, request: HeaderMap) -> Response {
    let (form, coding) = choose(file, &request);
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.extend(FENCE);
    headers.insert(ETAG, HeaderValue::from_static(form.etag));
    headers.insert(CACHE_CONTROL, if file.name.starts_with(HASHED) { CACHE_HASHED } else { CACHE_NAMED });
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if has(&request, form.etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
    if let Some(coding) = coding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    *response.body_mut() = form.bytes.into();
    response
}

/// The smallest form the client takes.
fn choose(file: &'static File, request: &HeaderMap) -> (&'static Form, Option<&'static str>) {
    let coded = [("br", &file.brotli), ("gzip", &file.gzip)];
    let taken = coded.into_iter().filter(|(coding, _)| takes(request, coding));
    taken.filter_map(|(coding, form)| Some((form.as_ref()?, Some(coding)))).next().unwrap_or((&file.plain, None))
}

/// Whether `Accept-Encoding` admits a coding (RFC 9110 §12.5.3): named or by `*`, and not with a weight of nought.
fn takes(request: &HeaderMap, coding: &str) -> bool {
    let mut any = false;
    for item in items(request, ACCEPT_ENCODING) {
        let (name, weight) = item.split_once(';').unwrap_or((item, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        let admitted = weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0);
        match name.trim() {
            name if name.eq_ignore_ascii_case(coding) => return admitted,
            "*" => any = admitted,
            _ => {}
        }
    }
    any
}

/// Whether `If-None-Match` names this form (RFC 9110 §13.1.2): the comparison is the weak one.
fn has(request: &HeaderMap, etag: &str) -> bool {
    items(request, IF_NONE_MATCH).any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item) == etag)
}

fn items(request: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lists = request.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: File = File {
        name: "assets/a.js",
        kind: "text/javascript; charset=utf-8",
        plain: Form { etag: "\"p\"", bytes: b"plain" },
        brotli: Some(Form { etag: "\"b\"", bytes: b"br" }),
        gzip: Some(Form { etag: "\"g\"", bytes: b"gz" }),
    };

    fn request(headers: &[(HeaderName, &'static str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn paths_name_files() {
        for path in ["/", "/p/demo", "/p/demo/"] {
            assert_eq!(find(path).map(|file| file.name), Some(INDEX), "{path}");
        }
        for path in [
            "",
            "/p",
            "/p/",
            "/p//",
            "/p/demo/x",
            "/index.html",
            "/assets",
            "/assets/",
            "/assets/../index.html",
            "/Cargo.toml",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn the_smallest_form_the_client_takes_is_sent() {
        let cases = [
            (&[][..], None),
            (&["gzip, deflate, br, zstd"], Some("br")),
            (&["gzip"], Some("gzip")),
            (&["GZIP;q=0.5"], Some("gzip")),
            (&["gzip", "br"], Some("br")),
            (&["br;q=0, gzip"], Some("gzip")),
            (&["*"], Some("br")),
            (&["*, br; q=0.0"], Some("gzip")),
            (&["*;q=0"], None),
            (&["identity"], None),
            (&["br;q=nonsense"], None),
            (&["x-br, brotli"], None),
        ];
        for (values, expect) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            let response = answer(&SAMPLE, headers);
            let coding = response.headers().get(CONTENT_ENCODING).map(|value| value.to_str().expect("ours"));
            assert_eq!(coding, expect, "{values:?}");
        }
    }

    #[test]
    fn a_form_the_client_has_is_not_sent_again() {
        let cases = [
            ("\"b\"", StatusCode::NOT_MODIFIED),
            ("W/\"b\"", StatusCode::NOT_MODIFIED),
            ("\"x\", \"b\"", StatusCode::NOT_MODIFIED),
            ("*", StatusCode::NOT_MODIFIED),
            ("\"p\"", StatusCode::OK),
            ("b", StatusCode::OK),
        ];
        for (etag, expect) in cases {
            let response = answer(&SAMPLE, request(&[(ACCEPT_ENCODING, "br"), (IF_NONE_MATCH, etag)]));
            assert_eq!(response.status(), expect, "{etag}");
            assert_eq!(response.headers()[ETAG], "\"b\"");
            assert_eq!(response.headers()[VARY], "accept-encoding");
        }
    }

    #[test]
    fn hashed_files_are_kept_and_named_ones_asked_for() {
        assert_eq!(answer(&SAMPLE, HeaderMap::new()).headers()[CACHE_CONTROL], CACHE_HASHED);
        let index = find("/").expect("the page has an index");
        assert_eq!(answer(index, HeaderMap::new()).headers()[CACHE_CONTROL], CACHE_NAMED);
    }

    #[test]
    fn every_answer_is_fenced_in() {
        let index = find("/").expect("the page has an index");
        let seen = request(&[(IF_NONE_MATCH, "*")]);
        for response in [answer(index, HeaderMap::new()), answer(index, seen)] {
            for (name, value) in FENCE {
                assert_eq!(response.headers().get(&name), Some(&value), "{name}");
            }
        }
    }

    #[test]
    fn the_index_loads_only_files_that_are_there() {
        let html = std::str::from_utf8(find("/").expect("the page has an index").plain.bytes).expect("UTF-8");
        for attribute in ["src=\"/", "href=\"/"] {
            for rest in html.split(attribute).skip(1) {
                let path = format!("/{}", rest.split('"').next().expect("split yields at least once"));
                assert!(find(&path).is_some(), "{path}");
            }
        }
    }
}
