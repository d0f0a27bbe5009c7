//! The files of the page, which are part of the program.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// The page's own files and pictures that somebody chose, and nothing else; no script and no style within the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page.
#[derive(Debug)]
pub(super) struct Asset {
    pub(super) path: &'static str,
    pub(super) kind: &'static str,
    pub(super) bytes: &'static [u8],
}

pub(super) const ASSETS: &[Asset] = &[
    Asset { path: "/", kind: HTML, bytes: include_bytes!("page.html") },
    Asset { path: "/tessera/page.css", kind: CSS, bytes: include_bytes!("page.css") },
    Asset { path: "/tessera/icon.svg", kind: SVG, bytes: include_bytes!("icon.svg") },
    Asset { path: "/tessera/main.js", kind: SCRIPT, bytes: include_bytes!("main.js") },
    Asset { path: "/tessera/dom.js", kind: SCRIPT, bytes: include_bytes!("dom.js") },
    Asset { path: "/tessera/gateway.js", kind: SCRIPT, bytes: include_bytes!("gateway.js") },
    Asset { path: "/tessera/ask.js", kind: SCRIPT, bytes: include_bytes!("ask.js") },
    Asset { path: "/tessera/pictures.js", kind: SCRIPT, bytes: include_bytes!("pictures.js") },
    Asset { path: "/tessera/mosaic.js", kind: SCRIPT, bytes: include_bytes!("mosaic.js") },
    Asset { path: "/tessera/times.js", kind: SCRIPT, bytes: include_bytes!("times.js") },
    Asset { path: "/tessera/pools.js", kind: SCRIPT, bytes: include_bytes!("pools.js") },
];

/// The page itself: it holds no secret, and asks for a token where one is needed.
pub(in crate::http) fn open() -> Router {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let tag = asset.tag();
        router.route(asset.path, get(async move |headers: HeaderMap| asset.answer(&tag, &headers)))
    })
}

impl Asset {
    /// What tells this version of the file from any other.
    fn tag(&self) -> String {
        format!("\"{}\"", &blake3::hash(self.bytes).to_hex()[..32])
    }

    /// The file, or that the one which the browser has is this one.
    fn answer(&self, tag: &str, headers: &HeaderMap) -> Response {
        let mut about = vec![
            // To be kept, and asked for again: the next program may bring another one.
            (header::CACHE_CONTROL, value("no-cache")),
            (header::ETAG, value(tag)),
            (header::CONTENT_SECURITY_POLICY, value(POLICY)),
            (header::X_CONTENT_TYPE_OPTIONS, value("nosniff")),
            (header::REFERRER_POLICY, value("no-referrer")),
        ];
        if is_known(headers, tag) {
            return (StatusCode::NOT_MODIFIED, map(about)).into_response();
        }
        about.push((header::CONTENT_TYPE, value(self.kind)));
        (map(about), self.bytes).into_response()
    }
}

/// Whether the browser says that it has the file of this tag.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    let mut known = lists.flat_map(|list| list.split(',')).map(|known| known.trim().trim_start_matches("W/"));
    known.any(|known| known == "*" || known == tag)
}

fn map(headers: Vec<(HeaderName, HeaderValue)>) -> HeaderMap {
    headers.into_iter().collect()
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("the headers of the page are plain text")
}
