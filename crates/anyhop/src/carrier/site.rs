//! The HTTP site that a WebSocket listener shows to everybody else: a few pages in memory.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};

/// Most bytes that a site may hold, over all its pages: they are kept in memory.
pub const MAX_SITE_BYTES: usize = 16 << 20;

const WELCOME: &str = "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
<title>Welcome</title></head>\n<body>\n<h1>It works</h1>\n<p>There is nothing to see here \
yet.</p>\n</body>\n</html>\n";
const NOT_FOUND: &str = "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
<title>404 Not Found</title></head>\n<body>\n<h1>Not Found</h1>\n<p>The requested page was \
not found on this server.</p>\n</body>\n</html>\n";
const HTML: &str = "text/html; charset=utf-8";

/// One page of a [`Site`].
#[derive(Clone)]
pub struct Page {
    /// Its media type, such as `text/html; charset=utf-8`.
    pub content_type: String,
    /// Its content.
    pub body: Bytes,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.content_type, self.body.len())
    }
}

/// Pages by path, such as `/index.html`. `/` and paths that end in it show the
/// `index.html` below them. [`Default`] has one page that says that it works.
#[derive(Debug, Clone)]
pub struct Site {
    /// The pages; kept in memory, see [`MAX_SITE_BYTES`].
    pub pages: BTreeMap<String, Page>,
}

impl Default for Site {
    fn default() -> Self {
        let welcome = Page {
            content_type: HTML.to_owned(),
            body: Bytes::from_static(WELCOME.as_bytes()),
        };
        Self {
            pages: BTreeMap::from([("/index.html".to_owned(), welcome)]),
        }
    }
}

impl Site {
    /// The answer to a request that is no WebSocket's. The body of an answer to HEAD is
    /// left out by the HTTP layer.
    pub(super) fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = page(StatusCode::METHOD_NOT_ALLOWED, HTML, Bytes::new());
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        let found = match path.strip_suffix('/') {
            Some(folder) => self.pages.get(&format!("{folder}/index.html")),
            None => self.pages.get(path),
        };
        match found {
            Some(found) => page(StatusCode::OK, &found.content_type, found.body.clone()),
            None => {
                let body = Bytes::from_static(NOT_FOUND.as_bytes());
                page(StatusCode::NOT_FOUND, HTML, body)
            }
        }
    }
}

fn page(status: StatusCode, content_type: &str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_str(content_type);
    let content_type = content_type.unwrap_or(HeaderValue::from_static(HTML));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_by_path_and_folders_by_their_index() {
        let mut site = Site::default();
        let style = Page {
            content_type: "text/css".to_owned(),
            body: Bytes::from_static(b"p {}"),
        };
        site.pages.insert("/a/style.css".to_owned(), style);
        let status = |method: Method, path: &str| site.answer(&method, path).status().as_u16();
        assert_eq!(status(Method::GET, "/"), 200);
        assert_eq!(status(Method::HEAD, "/index.html"), 200);
        assert_eq!(status(Method::GET, "/a/style.css"), 200);
        assert_eq!(status(Method::GET, "/a/"), 404);
        assert_eq!(status(Method::GET, "/../etc/passwd"), 404);
        assert_eq!(status(Method::POST, "/"), 405);
        let answer = site.answer(&Method::GET, "/a/style.css");
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/css");
    }
}
