//! What a request carries: its path's name, its query, its JSON. Whatever is wrong with it is said in the one shape
//! of an error, here and on the command line.
use super::types::{ErrorBody, ErrorView};
use crate::clock;
use crate::config::random_16;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use protocol::Fault;
use serde::de::DeserializeOwned;

pub fn error_body(fault: Fault) -> ErrorBody {
    // The id only joins an answer to a line of the log; without randomness the fault itself is still worth saying.
    let request_id = random_16().map(hex::encode).unwrap_or_default();
    ErrorBody { error: ErrorView { fault, request_id, timestamp: clock::rfc3339(clock::now()) } }
}

/// A fault as the API shows it.
pub(super) struct Failure {
    status: StatusCode,
    fault: Fault,
}

impl Failure {
    /// HTTP has a status of its own for some requests that are wrong.
    pub(super) fn with_status(status: StatusCode, fault: Fault) -> Self {
        Failure { status, fault }
    }
}
impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let status = StatusCode::from_u16(fault.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Failure { status, fault }
    }
}
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = error_body(self.fault);
        tracing::debug!(code = %body.error.fault.code, id = body.error.request_id, "{}", body.error.fault.message);
        (self.status, Json(body)).into_response()
    }
}

/// The one name in a route's path.
pub(super) struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Named(name)).map_err(|error| Fault::invalid(error.body_text()).into())
    }
}

/// The query, of which every field is known.
pub(super) struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Asked(query)).map_err(|error| Fault::invalid(error.body_text()).into())
    }
}

/// The JSON of a body, whatever its content type says: `curl -d` says the wrong one.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| Failure::with_status(error.status(), Fault::invalid(error.body_text())))?;
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Body).map_err(|error| Fault::invalid(format!("the request's body: {error}")).into())
    }
}
