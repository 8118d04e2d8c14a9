//! Head response: responses to HEAD, whose body the server leaves out.
//!
//! **Not here:** routing HEAD like GET (the middleware of each program).

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;

/// Removes the body of a response to HEAD if it is a stream. The server does not send the body, but
/// would wait for the end of the stream.
pub fn without_stream(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    if response.response().body().size() == BodySize::Stream {
        return response.map_body(|_, _| BoxBody::new(()));
    }
    response
}
