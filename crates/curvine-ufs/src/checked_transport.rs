//! Answers of a store that are looked at before OpenDAL takes them.
//!
//! Always: what is taken for a listing is one, from its beginning to its end. A page that a proxy puts in its place would be taken for
//! an empty listing, and everything that was known of the directory would seem to be gone. What is taken for a range is the one that
//! was asked for, by the answer's own word.

use futures::stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{Method, Request, Response, StatusCode};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, Result};
use opendal_http_transport_reqwest::ReqwestTransport;

pub(crate) struct CheckedTransport {
    inner: ReqwestTransport,
    form: ListingForm,
}

/// What an answer has that is a listing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ListingForm {
    /// The XML element that all of it is in.
    Xml(&'static str),
    /// Words in a JSON object.
    #[allow(dead_code, reason = "a build may have no store that answers so")]
    Json(&'static str),
}

impl CheckedTransport {
    pub(crate) fn new(client: reqwest::Client, form: ListingForm) -> Self {
        Self { inner: ReqwestTransport::new(client), form }
    }
}

impl HttpTransport for CheckedTransport {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let is_listing = request.method() == Method::GET && request.uri().query().is_some_and(asks_for_listing);
        let range = request.headers().get(RANGE).and_then(|range| range.to_str().ok()).and_then(asked_range);
        let answer = self.inner.fetch(request).await?;
        if let Some(range) = range
            && answer.status().is_success()
            && !is_range(&answer, range)
        {
            let message = "the store answered with another range than it was asked for";
            return Err(Error::new(ErrorKind::Unexpected, message).set_temporary());
        }
        if !is_listing || !answer.status().is_success() {
            return Ok(answer);
        }
        let (parts, mut body) = answer.into_parts();
        let text = body.to_buffer().await?.to_bytes();
        if !is_whole_listing(&text, self.form) {
            let message = "the answer is no listing: something between here and the store may have given it";
            return Err(Error::new(ErrorKind::Unexpected, message).set_temporary());
        }
        let size = text.len() as u64;
        let body = HttpBody::new(stream::iter([Ok(Buffer::from(text))]), Some(size));
        Ok(Response::from_parts(parts, body))
    }
}

/// First and last byte of `bytes=0-9`.
fn asked_range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Whether the answer says that it is the range, or its beginning where the object ends sooner, and is as long as it says. What comes
/// is handed on before its end is there, so nothing else may be taken for it.
fn is_range<T>(answer: &Response<T>, (first, last): (u64, u64)) -> bool {
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        // A whole object, which is what was asked for if it is as long.
        return first == 0 && length == Some(last + 1);
    }
    let said = header(CONTENT_RANGE).and_then(|text| text.strip_prefix("bytes "));
    let said = said.and_then(|text| text.split_once('/')?.0.split_once('-'));
    let said = said.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    said.is_some_and(|(from, until)| {
        let whole = until.checked_sub(from).map(|rest| rest + 1);
        from == first && until <= last && whole.is_some() && (length.is_none() || length == whole)
    })
}

fn asks_for_listing(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        matches!(name, "list-type" | "prefix" | "delimiter" | "max-keys") || pair == "comp=list"
    })
}

/// An XML element may have a prefix of its namespace.
fn is_whole_listing(text: &[u8], form: ListingForm) -> bool {
    let text = text.trim_ascii();
    let has = |word: &str| text.windows(word.len()).any(|part| part == word.as_bytes());
    match form {
        ListingForm::Xml(element) => {
            has(element) && (text.ends_with(format!("{element}>").as_bytes()) || text.ends_with(b"/>"))
        }
        ListingForm::Json(word) => text.starts_with(b"{") && text.ends_with(b"}") && has(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_range_that_was_asked_for_is_one() {
        assert_eq!(
            (asked_range("bytes=5-9"), asked_range("bytes=5-"), asked_range("bytes=-5")),
            (Some((5, 9)), None, None)
        );
        let answer = |status: u16, name: &str, value: &str| {
            Response::builder().status(status).header(name, value).body(()).expect("a response")
        };
        for (status, name, value, want) in [
            (206, "content-range", "bytes 5-9/100", true),
            (206, "content-range", "bytes 5-7/8", true),
            (206, "content-range", "bytes 4-8/100", false),
            (206, "content-range", "bytes 5-10/100", false),
            (206, "content-range", "items", false),
            (206, "content-length", "5", false),
            (200, "content-length", "5", false),
        ] {
            assert_eq!(is_range(&answer(status, name, value), (5, 9)), want, "{status} {value}");
        }
        assert!(is_range(&answer(200, "content-length", "10"), (0, 9)));
        for (length, want) in [("5", true), ("4", false), ("6", false)] {
            let said = Response::builder().status(206).header("content-range", "bytes 5-9/100");
            let said = said.header("content-length", length).body(()).expect("a response");
            assert_eq!(is_range(&said, (5, 9)), want, "{length} bytes");
        }
    }

    #[test]
    fn only_a_whole_listing_is_one() {
        assert!(asks_for_listing("restype=container&comp=list"));
        assert!(asks_for_listing("list-type=2&prefix=a%2F") && asks_for_listing("prefix=&delimiter=%2F"));
        assert!(
            !asks_for_listing("comp=blocklist")
                && !asks_for_listing("uploadId=x&partNumber=1")
                && !asks_for_listing("uploads=")
        );
        for (text, want) in [
            ("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><Name>b</Name></ListBucketResult>\n", true),
            ("<ListBucketResult/>", true),
            ("<s3:ListBucketResult></s3:ListBucketResult>", true),
            ("<ListBucketResult><Name>b</Name><Contents>", false),
            ("<html>please log in</html>", false),
            ("", false),
        ] {
            assert_eq!(is_whole_listing(text.as_bytes(), ListingForm::Xml("ListBucketResult")), want, "{text}");
        }
        let json = |text: &str| is_whole_listing(text.as_bytes(), ListingForm::Json("storage#objects"));
        assert!(json("{\"kind\": \"storage#objects\"}\n"));
        assert!(!json("{}") && !json("{\"kind\": \"storage#objects\"") && !json("<html>storage#objects</html>"));
    }
}
