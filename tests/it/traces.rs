//! What a collector of traces is told, over HTTP as it is spoken; and that a server does without one.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use prost::Message as _;
use rustix::process::Signal;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::harness::certificate::{self, Certificate};
use crate::harness::{DEADLINE, Server, Settings, block_on};

/// How a collector behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Takes,
    Refuses,
    /// Takes the connection and the request, and answers nothing.
    Silent,
}

/// A collector: it keeps what it is told.
struct Collector {
    address: SocketAddr,
    told: Arc<Told>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Told {
    requests: Mutex<Vec<(HeaderMap, Bytes)>>,
    more: Condvar,
}

impl Collector {
    fn start(manner: Manner) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), manner, None)
    }

    fn start_at(address: SocketAddr, manner: Manner, tls: Option<TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("the address is free");
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (told, stop) = (Arc::<Told>::default(), CancellationToken::new());
        let (collects, stopped) = (told.clone(), stop.clone());
        std::thread::spawn(move || {
            block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let accepting = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let (told, tls) = (collects.clone(), tls.clone());
                        tokio::spawn(async move {
                            let service = service_fn(move |request| take(request, manner, told.clone()));
                            let builder = hyper::server::conn::http1::Builder::new();
                            // Whoever goes away meanwhile has had its say.
                            let _ = match tls {
                                None => builder.serve_connection(TokioIo::new(stream), service).await,
                                Some(tls) => {
                                    let Ok(stream) = tls.accept(stream).await else { return };
                                    builder.serve_connection(TokioIo::new(stream), service).await
                                }
                            };
                        });
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    () = stopped.cancelled() => {}
                }
            });
        });
        Self { address, told, _stop: stop.drop_guard() }
    }

    /// What a server is started with that is to export to it, often.
    fn environment(&self) -> Vec<(&'static str, String)> {
        environment(&format!("http://{}", self.address))
    }

    /// All that was sent so far.
    fn requests(&self) -> Vec<(HeaderMap, Bytes)> {
        self.told.requests.lock().unwrap().clone()
    }

    fn exports(&self) -> Vec<ExportTraceServiceRequest> {
        let decode = |(_, body): (HeaderMap, Bytes)| ExportTraceServiceRequest::decode(body).expect("it is OTLP");
        self.requests().into_iter().map(decode).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.exports().into_iter().flat_map(|export| export.resource_spans);
        resources.flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans).collect()
    }

    /// Waits for a span that is as wanted.
    fn span(&self, wanted: impl Fn(&Span) -> bool) -> Span {
        let by = Instant::now() + DEADLINE;
        loop {
            let spans = self.spans();
            if let Some(span) = spans.iter().find(|span| wanted(span)) {
                return span.clone();
            }
            let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
            assert!(Instant::now() < by, "no such span among {names:?}");
            let requests = self.told.requests.lock().unwrap();
            drop(self.told.more.wait_timeout(requests, Duration::from_millis(500)).unwrap());
        }
    }

    /// Waits for a span of this name below another one.
    fn below(&self, parent: &Span, name: &str) -> Span {
        let span = self.span(|span| span.name == name && span.parent_span_id == parent.span_id);
        assert_eq!(span.trace_id, parent.trace_id, "{name} is in the trace of its parent");
        span
    }
}

async fn take(
    request: Request<Incoming>,
    manner: Manner,
    told: Arc<Told>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    assert_eq!(request.uri().path(), "/v1/traces");
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    told.requests.lock().unwrap().push((head.headers, body));
    told.more.notify_all();
    let mut response = Response::new(Full::default());
    match manner {
        Manner::Takes => {}
        Manner::Refuses => *response.status_mut() = StatusCode::UNAUTHORIZED,
        Manner::Silent => std::future::pending().await,
    }
    Ok(response)
}

fn environment(url: &str) -> Vec<(&'static str, String)> {
    vec![("OTEL_EXPORTER_OTLP_ENDPOINT", url.to_owned()), ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned())]
}

/// The values of all attributes of a name, as texts.
fn attributes(attributes: &[KeyValue], name: &str) -> Vec<String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().filter(|attribute| attribute.key == name).map(|attribute| text(&attribute.value)).collect()
}

/// The value of the one attribute of a span that has this name.
fn attribute(span: &Span, name: &str) -> String {
    match &attributes(&span.attributes, name)[..] {
        [value] => value.clone(),
        other => panic!("{name} of {} is {other:?}", span.name),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

#[test]
fn a_client_and_the_cell_it_starts_are_one_trace() {
    let collector = Collector::start(Manner::Takes);
    let mut environment = collector.environment();
    environment.extend([
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20for-the-collector".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test".to_owned()),
        // What is logged has nothing to do with it.
        ("CLOISTER_LOG", "warn,cloister::serve=info".to_owned()),
    ]);
    let config = "trusted_proxies = ['127.0.0.1']".to_owned();
    let Some(server) = Server::start_with(Settings { config, environment, ..Settings::default() }) else { return };
    let project = server.project();
    block_on(async {
        let path = format!("/ws/terminal/{project}/?token={}&session=work", server.token);
        let mut terminal = server.upgrade(&path, &[("traceparent", &traceparent())]).await.expect("it is opened");
        terminal.expect("$ ").await;
        terminal.run("echo typed-and-printed").await;
        // While the client is there, its request is over.
        let request = collector.span(|span| span.name == "GET /ws/terminal/{}/");
        assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        assert_eq!(request.kind, i32::from(SpanKind::Server));
        let id = attribute(&request, "request_id");
        assert_eq!(id.len(), 16, "{id}");
        for (name, value) in [
            ("project", project.as_str()),
            ("client.address", "127.0.0.1"),
            ("http.request.method", "GET"),
            ("http.response.status_code", "101"),
        ] {
            assert_eq!(attribute(&request, name), value, "{name}");
        }
        let attach = collector.below(&request, "attach");
        assert_eq!(
            (attribute(&attach, "project"), attribute(&attach, "session")),
            (project.clone(), "work".to_owned())
        );
        let start = collector.below(&attach, "start cell");
        assert_eq!(attribute(&start, "project"), project);
        collector.below(&start, "read settings");
        assert_eq!(attribute(&collector.below(&start, "launcher"), "verb"), "start_cell");
        collector.below(&start, "connect");
        collector.below(&attach, "open session");
        let lasts = |span: &Span| span.end_time_unix_nano - span.start_time_unix_nano;
        assert!(lasts(&request) >= lasts(&attach) && lasts(&attach) >= lasts(&start) && lasts(&start) > 0);
        assert!(collector.spans().iter().all(|span| span.name != "client"), "it is still there");
        terminal.send("exit\r").await;
        terminal.closed().await;
        let client = collector.below(&request, "client");
        assert_eq!((attribute(&client, "project"), attribute(&client, "request_id")), (project.clone(), id));
        assert!(client.end_time_unix_nano > request.end_time_unix_nano);
        // Of another request: its name is the one that its client was told.
        let asked = server.ask("GET", &format!("/api/projects/{project}/why"), None).await;
        let why = collector.span(|span| span.name == "GET /api/projects/{}/why");
        assert_eq!(attribute(&why, "request_id"), asked.headers["x-request-id"]);
        assert_eq!((attribute(&why, "project"), hex(&why.parent_span_id)), (project.clone(), String::new()));
    });
    for (headers, body) in collector.requests() {
        assert_eq!(headers["authorization"], "Bearer for-the-collector");
        assert_eq!(headers["content-type"], "application/x-protobuf");
        let text = String::from_utf8_lossy(&body);
        for secret in [server.token.as_str(), "for-the-collector", "typed-and-printed", "Bearer", "token="] {
            assert!(!text.contains(secret), "{secret} is exported");
        }
    }
    for export in collector.exports() {
        let resource = export.resource_spans[0].resource.as_ref().expect("a resource").attributes.clone();
        let of = |name| attributes(&resource, name).join(",");
        assert_eq!((of("service.name"), of("deployment.environment.name")), ("cloister".to_owned(), "test".to_owned()));
        assert!(!of("service.version").is_empty() && !of("telemetry.sdk.version").is_empty(), "{resource:?}");
    }
    // Not a line of it is logged, by the server or by those who export.
    assert!(!server.log().contains("request{"), "{}", server.log());
}

#[test]
fn a_trace_is_continued_for_proxies_and_for_nobody_else() {
    let collector = Collector::start(Manner::Takes);
    let mut environment = collector.environment();
    environment.push(("OTEL_SERVICE_NAME", "ide".to_owned()));
    let Some(server) = Server::start_with(Settings { environment, ..Settings::default() }) else { return };
    block_on(async {
        let ask = async |method: &str, path: &str| {
            let head = format!("traceparent: {}\r\nAuthorization: Bearer {}\r\n", traceparent(), server.token);
            server.ask_with(method, path, &head, "").await
        };
        // Those who ask how it is make none.
        for probe in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(ask("GET", probe).await.status, 200);
        }
        let listed = ask("GET", "/api/projects").await;
        let span = collector.span(|span| span.name == "GET /api/projects");
        assert_eq!(attribute(&span, "request_id"), listed.headers["x-request-id"]);
        assert!(span.parent_span_id.is_empty() && hex(&span.trace_id) != TRACE, "{span:?}");
        // What isn't ours of a path or a method may be anything.
        ask("BREW", &format!("/{}/&token={}", server.token, server.token)).await;
        let odd = collector.span(|span| span.name == "_OTHER /{}/{}");
        assert_eq!(attribute(&odd, "http.response.status_code"), "404");
        let failed = server.project_with("image = 'nowhere'");
        server.try_open(&failed, "").await.err().expect("there is no image");
        let attach = collector.span(|span| span.name == "attach");
        let status = attach.status.expect("a status");
        assert_eq!(status.code, i32::from(SpanStatus::Error), "{status:?}");
        assert!(status.message.contains("nowhere"), "{status:?}");
        let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
        assert!(
            names.iter().all(|name| !["health", "ready", "metrics"].iter().any(|of| name.contains(of))),
            "{names:?}"
        );
        assert!(collector.requests().iter().all(|(_, body)| !String::from_utf8_lossy(body).contains(&server.token)));
        let resource = collector.exports()[0].resource_spans[0].resource.clone().expect("a resource");
        assert_eq!(attributes(&resource.attributes, "service.name"), ["ide"]);
    });
}

#[test]
fn without_its_collector_a_server_goes_on_and_says_so_once() {
    // Nobody listens where one did just now.
    let address = Collector::start(Manner::Takes).address;
    let mut environment = environment(&format!("http://{address}"));
    environment.push(("OTEL_EXPORTER_OTLP_TIMEOUT", "200".to_owned()));
    let Some(mut server) = Server::start_with(Settings { environment, ..Settings::default() }) else { return };
    block_on(async {
        server.logged("traces are exported").await;
        let list = async || assert_eq!(server.ask("GET", "/api/projects", None).await.status, 200);
        list().await;
        server.logged("traces are lost").await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            list().await;
        }
        let lines = server.log();
        let told: Vec<_> = lines.lines().filter(|line| line.contains("traces")).collect();
        assert!(told.len() == 2 && told[1].contains("refused") && told[1].contains(&address.to_string()), "{lines}");
        // It comes up, and gets what happens from then on.
        let collector = Collector::start_at(address, Manner::Takes, None);
        let by = Instant::now() + DEADLINE;
        while collector.spans().is_empty() {
            assert!(Instant::now() < by, "it gets nothing");
            list().await;
        }
        server.logged("traces arrive again").await;
    });
    ends_soon(&mut server);
}

/// Has the server end, which waits for no collector; another one follows.
fn ends_soon(server: &mut Server) {
    server.signal(Signal::TERM);
    let began = Instant::now();
    assert!(server.ended().success());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    server.restart();
}

#[test]
fn a_collector_that_never_answers_keeps_nobody_waiting() {
    let collector = Collector::start(Manner::Silent);
    let environment = collector.environment();
    let Some(mut server) = Server::start_with(Settings { environment, ..Settings::default() }) else { return };
    block_on(async {
        // More than there is room for.
        let head = format!("Authorization: Bearer {}\r\n", server.token);
        let request = format!("GET /api/projects HTTP/1.1\r\nHost: {}\r\n{head}\r\n", server.address);
        let last = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let answers = server.exchange(&(request.repeat(2999) + &last)).await;
        assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 200").count(), 3000);
        assert!(!collector.requests().is_empty());
        server.prompt(&server.project(), "").await;
    });
    ends_soon(&mut server);
}

#[test]
fn a_collector_is_spoken_with_by_tls_when_its_certificate_is_known() {
    let certificate = Certificate::make();
    let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth();
    let config = config.with_single_cert(vec![certificate::read(&certificate.certificate())], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let collector = Collector::start_at("127.0.0.1:0".parse().unwrap(), Manner::Takes, Some(acceptor));
    let url = format!("https://localhost:{}", collector.address.port());
    for known in [true, false] {
        let mut environment = environment(&url);
        if known {
            environment.push(("OTEL_EXPORTER_OTLP_CERTIFICATE", certificate.certificate().display().to_string()));
        }
        let Some(server) = Server::start_with(Settings { environment, ..Settings::default() }) else { return };
        block_on(async {
            server.ask("GET", "/api/projects", None).await;
            if known {
                collector.span(|span| span.name == "GET /api/projects");
            } else {
                server.logged("by OTEL_EXPORTER_OTLP_CERTIFICATE").await;
            }
        });
    }
}

#[test]
fn one_that_takes_nothing_is_named_with_what_it_says() {
    let collector = Collector::start(Manner::Refuses);
    let environment = collector.environment();
    let Some(server) = Server::start_with(Settings { environment, ..Settings::default() }) else { return };
    block_on(async {
        server.ask("GET", "/api/projects", None).await;
        server.logged("status code: 401").await;
    });
}

#[test]
fn what_is_wrong_with_the_variables_is_said_and_nothing_is_exported() {
    let (endpoint, protocol) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL");
    let here = || "http://127.0.0.1:4318".to_owned();
    for (environment, said) in [
        (vec![(endpoint, "127.0.0.1:4318".to_owned())], "OTEL_EXPORTER_OTLP_ENDPOINT: "),
        (vec![(endpoint, here()), (protocol, "grpc".to_owned())], "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
        (
            vec![(endpoint, here()), ("OTEL_EXPORTER_OTLP_TIMEOUT", "1s".to_owned())],
            "a number of milliseconds, is `1s`",
        ),
        (vec![(endpoint, "http://nowhere.invalid:4318".to_owned())], "nowhere.invalid: it has no address"),
    ] {
        let Some(server) = Server::start_with(Settings { environment, ..Settings::default() }) else { return };
        let log = server.log();
        let line = log.lines().find(|line| line.contains("no traces are exported")).unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(said), "{line}");
        block_on(async { assert_eq!(server.ask("GET", "/api/projects", None).await.status, 200) });
    }
}
