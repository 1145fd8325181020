//! Sockets: accept, TLS, HTTP/1.1, and the end of it all when the simulator stops.

use crate::exchange::exchange;
use crate::model::Noted;
use crate::services::Listener;
use crate::shared::Shared;
use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Serves the simulated services on a socket.
pub(crate) fn serve(shared: &Arc<Shared>, socket: TcpListener, tls: Arc<ServerConfig>, listener: Listener) {
    let listener = Arc::new(listener);
    accept(shared, socket, move |shared, stream| {
        let (listener, tls) = (listener.clone(), tls.clone());
        async move {
            // A client that does not trust us ends here.
            let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else {
                return;
            };
            connection(stream, service_fn(move |request| exchange(shared.clone(), listener.clone(), request))).await;
        }
    });
}

/// Serves the control API on a socket.
pub(crate) fn serve_control(shared: &Arc<Shared>, socket: TcpListener, router: Router) {
    accept(shared, socket, move |_, stream| connection(stream, TowerToHyperService::new(router.clone())));
}

/// Notes credentials that reach a socket.
pub(crate) fn serve_noting(shared: &Arc<Shared>, socket: TcpListener, tls: Option<Arc<ServerConfig>>) {
    accept(shared, socket, move |shared, stream| {
        let tls = tls.clone();
        async move {
            let service = service_fn(move |request| note(shared.clone(), request));
            match tls {
                None => connection(stream, service).await,
                Some(tls) => {
                    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else {
                        return;
                    };
                    connection(stream, service).await;
                }
            }
        }
    });
}

fn accept<F, S>(shared: &Arc<Shared>, socket: TcpListener, mut serve: S)
where
    S: FnMut(Arc<Shared>, TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let own = shared.clone();
    shared.spawn(async move {
        loop {
            // An error concerns one connection, or passes; there is nothing to do about it.
            let Ok((stream, _)) = socket.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            // Without it small answers wait for the client's delayed acknowledgement.
            let _ignored = stream.set_nodelay(true);
            own.spawn(serve(own.clone(), stream));
        }
    });
}

async fn connection<I, S>(stream: I, service: S)
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // An error is the client's leave or a fault on purpose.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn note(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, 1024 * 1024).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => axum::body::Bytes::new(),
    };
    let body_text = String::from_utf8_lossy(&body);
    let path = parts.uri.to_string();
    shared.change(|world| {
        let is_secret = |text: &str| world.secrets.iter().any(|secret| text.contains(&secret.value));
        let mut credential_headers = Vec::new();
        let mut texts =
            vec![path.clone(), body_text.to_string(), percent_encoding::percent_decode_str(&body_text).decode_utf8_lossy().into_owned()];
        for (name, value) in &parts.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            if matches!(name.as_str(), "authorization" | "cookie" | "proxy-authorization") || is_secret(&value) {
                credential_headers.push(name.to_string());
            }
            texts.push(value);
        }
        let leaked: HashSet<&str> = world
            .secrets
            .iter()
            .map(|secret| secret.value.as_str())
            .filter(|secret| texts.iter().any(|text| text.contains(secret)))
            .collect();
        let secrets = leaked.len();
        let method = parts.method.to_string();
        world.noted.push(Noted { method, path, credential_headers, secrets, body_length: body.len() });
    });
    let mut response = Response::new(Body::from("noted"));
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}
