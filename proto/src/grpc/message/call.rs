//! A call over a channel, with a body of our own.

use super::{GRPC, Incoming};
use crate::status::from_status;
use dfs_common::FsResult;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderValue, TE};
use tonic::codegen::http::{Method, Request, StatusCode, Uri, Version};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Sends a call; the reply's head has arrived and says no error.
///
/// # Errors
/// The server's error, `Unavailable` if it cannot be reached.
pub(in crate::grpc) async fn call(
    mut channel: Channel,
    path: &'static str,
    body: Body,
) -> FsResult<Incoming> {
    let unreachable = |error: tonic::transport::Error| from_status(&Status::from_error(error.into()));
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .map_err(unreachable)?;
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(path);
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    let response = channel.call(request).await.map_err(unreachable)?;
    let (head, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        if status.code() != Code::Ok {
            return Err(from_status(&status));
        }
    } else if head.status != StatusCode::OK {
        return Err(from_status(&foreign(head.status)));
    }
    Ok(Incoming::new(body))
}

/// The status of an answer that no gRPC server gave, as gRPC's "HTTP to gRPC status code mapping" has it.
fn foreign(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("the peer answered with HTTP status {status}"))
}
