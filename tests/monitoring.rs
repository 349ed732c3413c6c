//! What is told to Prometheus is what the manual, the dashboard and the alerts speak of, and Prometheus takes it without a word.

#[path = "../actors/tests/support/exposition.rs"]
mod exposition;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use actix_lines::{
    LineServer, Listener, Rot13, ServerHandle,
    cluster::{Cluster, memory::Memory},
    limits::Limits,
    metrics::{Metrics, TextFormat},
    tls::{Pem, Tls},
};
use exposition::Exposition;
use rustix::process::Signal;
use serde_json::Value;
use support::{PATIENCE, Server, address_in};
use tls::{Authority, TlsPeer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// A server of which there is every metric.
async fn whole_server() -> (ServerHandle, Cluster) {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let tls = Tls::builder(Pem::file(authority.path("server.pem")), Pem::file(authority.path("server-key.pem")));
    let limits = Limits::builder().max_sessions(1000).memory_budget(Some(1 << 30)).build().unwrap();
    let public = Listener::tcp("127.0.0.1:0").name("public").max_sessions(500);
    let secure = Listener::tcp("127.0.0.1:0").name("secure").tls(tls.build().expect("certificates"));
    let server = LineServer::new(|_| Rot13).workers(2).limits(limits).measure_answers(true);
    let cluster = Cluster::builder(Memory::new()).node("a").build().unwrap();
    let server = server.cluster(&cluster).unwrap();
    let server = server.listen(public).unwrap().listen(secure).unwrap().start().unwrap();
    let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    peer.write_all(b"hello\n").await.unwrap();
    within("an answer", peer.read_exact(&mut [0; 6])).await.unwrap();
    drop(peer);
    within("the end", async {
        while server.stats().await.unwrap().closed.is_empty() || cluster.node().is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    (server, cluster)
}

async fn whole() -> Exposition {
    let (server, cluster) = whole_server().await;
    let text = Metrics::new(&server).cluster(&cluster).encode_as(TextFormat::Prometheus).await.unwrap();
    server.abort().await.unwrap();
    Exposition::parse(&text)
}

/// The rows of the table in the manual: kind and labels of each metric.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let manual = read("docs/monitoring.md");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows = rows.filter(|(name, _)| name.starts_with("actix_lines_") || name.starts_with("process_"));
    rows.map(|(name, rest)| {
        let cells: Vec<_> = rest.split('|').map(str::trim).collect();
        let labels = cells[1].split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        assert!(cells[2].len() > 5, "{name} means nothing");
        (name.to_owned(), (cells[0].to_owned(), labels))
    })
    .collect()
}

#[actix::test]
async fn the_manual_has_every_metric_with_its_kind_and_labels() {
    let all = whole().await;
    let mut told: BTreeMap<_, (String, BTreeSet<String>)> = BTreeMap::new();
    for (name, labels) in all.samples.keys() {
        let (family, kind) = all.family(name).expect("its family");
        let (_, known) = told.entry(family.to_owned()).or_insert_with(|| (kind.to_owned(), BTreeSet::new()));
        known.extend(labels.iter().map(|(label, _)| label.clone()).filter(|label| label != "le"));
    }
    assert_eq!(documented(), told);
}

/// The metrics that a text asks Prometheus for.
fn asked_for(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("actix_lines_") || word.starts_with("process_")).collect()
}

#[actix::test]
async fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let all = whole().await;
    let names = all.names();
    let dashboard: Value = serde_json::from_str(&read("packaging/monitoring/grafana.json")).expect("JSON");
    let mut texts = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "twice: {panel}");
        assert!(!panel["title"].as_str().unwrap_or_default().is_empty(), "no title: {panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            texts.push(target["expr"].as_str().expect("a query").to_owned());
        }
        assert!(panel["type"] == "row" || panel["description"].as_str().is_some(), "not described: {panel}");
    }
    assert!(texts.len() > 20);
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    texts.extend(variables.iter().filter_map(|variable| Some(variable["definition"].as_str()?.to_owned())));
    for name in ["alerts.yml", "alerts_test.yml"] {
        texts.push(read(&format!("packaging/monitoring/{name}")));
    }
    for text in &texts {
        for asked in asked_for(text) {
            assert!(names.contains(asked), "there is no {asked}: {text}");
        }
    }
    // What an alert looks for is there before it happens for the first time.
    let alerts = read("packaging/monitoring/alerts.yml");
    for reasons in alerts.split("reason=").skip(1) {
        let quoted = reasons.split('"').nth(1).expect("a reason");
        for reason in quoted.split('|') {
            let is_there = all.samples.iter().any(|((_, labels), _)| labels.iter().any(|(_, value)| value == reason));
            assert!(is_there, "no sample with the reason {reason}");
        }
    }
}

#[test]
fn the_manual_and_the_tests_have_every_alert() {
    let (alerts, tests, manual) = (
        read("packaging/monitoring/alerts.yml"),
        read("packaging/monitoring/alerts_test.yml"),
        read("docs/monitoring.md"),
    );
    let names: BTreeSet<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10);
    let rows = manual.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0));
    let rows = rows.filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()));
    assert_eq!(rows.collect::<BTreeSet<_>>(), names);
    // Each goes off in a test, and in another not.
    for name in names {
        let cases =
            || tests.split("- eval_time: ").skip(1).filter(|case| case.contains(&format!("alertname: {name}\n")));
        let quiet = cases().filter(|case| case.contains("exp_alerts: []")).count();
        assert!(quiet > 0 && cases().count() > quiet, "{name}: {quiet} of {}", cases().count());
    }
}

/// Runs a program of the package `prometheus`, which has to succeed. Returns what it says.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(file("packaging/monitoring"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("promtool does not start: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[actix::test]
#[ignore = "needs prometheus; tests/run runs it"]
async fn promtool_finds_nothing_to_say_about_the_metrics() {
    let (server, cluster) = whole_server().await;
    let metrics = Metrics::new(&server).cluster(&cluster).label("zone", "a \"b\\").expect("a name");
    let text = metrics.encode_as(TextFormat::Prometheus).await.unwrap();
    assert_eq!(promtool(&["check", "metrics"], &text), "");
    server.abort().await.unwrap();
}

#[test]
#[ignore = "needs prometheus; tests/run runs it"]
fn promtool_accepts_the_configuration_and_the_alerts_and_their_tests_pass() {
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["test", "rules", "alerts_test.yml"], "");
}

/// Prometheus as a process, with a folder of its own.
struct Prometheus {
    process: Child,
    folder: PathBuf,
    address: String,
    _port: OwnedFd,
}

impl Prometheus {
    /// Scrapes `target` each second.
    fn start(target: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("actix-lines-prometheus-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let alerts = file("packaging/monitoring/alerts.yml");
        let sample = read("packaging/monitoring/prometheus.yml");
        let (_, sample) = sample.split_once("global:").expect("a configuration");
        let configuration = format!("global:{sample}")
            .replace(": 15s", ": 1s")
            .replace("scrape_timeout: 10s", "scrape_timeout: 1s")
            .replace("- alerts.yml", &format!("- {}", alerts.display()))
            .replace("127.0.0.1:9713", target);
        assert!(configuration.contains(target));
        fs::write(folder.join("prometheus.yml"), configuration).unwrap();
        let (port, address) = support::reserve();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        let log = fs::File::create(folder.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().unwrap_or_else(|error| panic!("prometheus does not start: {error}"));
        Self { process, folder, address: address.to_string(), _port: port }
    }

    /// The value of a query once it has one; `None` before.
    fn query(&self, query: &str) -> Option<f64> {
        let output = Command::new("promtool")
            .args(["query", "instant", &format!("http://{}", self.address), query])
            .output()
            .expect("promtool");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().next()?.rsplit_once("=> ")?.1.split_whitespace().next()?.parse().ok()
    }

    /// Waits until a query has this value.
    fn expect(&self, query: &str, value: f64) {
        let end = std::time::Instant::now() + PATIENCE;
        let mut last = None;
        while std::time::Instant::now() < end {
            last = self.query(query);
            if last == Some(value) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("{query} is {last:?} and not {value}: {log}");
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
#[ignore = "needs prometheus; tests/run runs it"]
fn prometheus_scrapes_rot13d_and_answers_with_the_numbers_of_the_server() {
    let authority = Authority::new();
    authority.issue("server", &["localhost"]);
    let listeners = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\n\
                     [[listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n\
                     [listener.tls]\ncertificate = \"server.pem\"\nkey = \"server-key.pem\"\n";
    let settings = "workers = 2\nconsole = \"off\"\nhttp = \"127.0.0.1:0\"\nmeasure-answers = true\n";
    let mut command = support::rot13d();
    command.args(["--config", &authority.write("rot13d.toml", &format!("{settings}{listeners}"))]);
    let server = Server::launch(command);
    let [plain, secure] = ["plain", "secure"].map(|name| address_in(&server.log_line(&format!(" as {name}"))));
    let http = server.log_line("http: served at http://");
    let target = http.rsplit_once("http://").expect("an address").1.trim_end_matches('/');

    let mut peers: Vec<_> = (0..7).map(|_| support::connect(plain)).collect();
    peers.iter_mut().for_each(support::greet);
    drop(peers.split_off(5));
    TlsPeer::connect(&authority.client(), secure, "localhost").greet();
    let prometheus = Prometheus::start(target);
    for (query, value) in [
        ("up{job=\"rot13d\"}", 1.0),
        ("actix_lines_sessions{listener=\"plain\"}", 5.0),
        ("actix_lines_sessions_opened_total{listener=\"plain\"}", 7.0),
        ("actix_lines_sessions_closed_total{listener=\"plain\",reason=\"peer-eof\"}", 2.0),
        ("actix_lines_session_duration_seconds_count{listener=\"plain\"}", 2.0),
        ("actix_lines_received_lines_total{listener=\"plain\"}", 7.0),
        ("actix_lines_sent_bytes_total{listener=\"plain\"}", 42.0),
        ("actix_lines_answer_duration_seconds_count{listener=\"plain\"}", 7.0),
        ("actix_lines_received_lines_total{listener=\"secure\"}", 1.0),
        // 2120-01-01.
        ("actix_lines_certificate_expiry_timestamp_seconds{listener=\"secure\"}", 4_733_510_400.0),
        ("count(actix_lines_worker_lag_seconds)", 2.0),
        ("actix_lines_build_info", 1.0),
        ("actix_lines_draining", 0.0),
        ("count(ALERTS) or vector(0)", 0.0),
        // That it was OpenMetrics, whose bounds have a point.
        ("count(actix_lines_turn_duration_seconds_bucket{le=\"1.0\"})", 2.0),
    ] {
        prometheus.expect(query, value);
    }
    server.signal(Signal::TERM);
    prometheus.expect("up{job=\"rot13d\"}", 0.0);
}
