//! What each rung of the ladder costs: lines, idle sessions, slow readers, and a line beside more and more idle connections.
//!
//! Each rung is a fresh process for each measurement, pinned to one core, with the client on another: a rung that spins or
//! has thousands of processes must not be there while others are measured. Rungs take turns, round by round, each
//! round beginning with another; the least processor time and the most lines of all rounds count. `rot13d` runs twice,
//! as the control. Children are counted with their server.
//! Not here: ratios to the floor of a readiness-based server (`server`).

mod support;

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use rustix::net::SendFlags;
use support::{
    PATIENCE, Scheduled, Server,
    client::{Client, Peer},
    number,
};

const USAGE: &str = "\
usage: cargo bench --bench ladder -- --report FILE [options]

  --plot FILE         default examples/ladder/cost.svg
  --connections N     of ping-pong and stream; default 64
  --busy N            connections with a line under way beside idle ones; default 8
  --idle LIST         numbers of idle connections; default 10,30,100,300,1000,3000,10000,15000
  --most-processes N  where the rung with a process for each connection stops; default 15000
  --idle-rounds N     rounds beside idle connections; default 8
  --seconds S         of each load in each round; default 0.3
";

const TIME: Duration = Duration::from_millis(300);
/// Length of a line; and what is under way at once on a connection of the stream.
const LINE: usize = 64;
const STREAM: usize = 8 << 10;
/// Idle connections are made so many at a time: a rung that asks them all in turn would take minutes, one by one.
const BATCH: usize = 100;
/// How long a server's children may take to end.
const SETTLING: Duration = Duration::from_secs(60);
/// What is offered to a session whose peer does not read, at most.
const OFFERED: usize = 256 << 20;
/// How far the control may be off.
const CONTROL_PERCENT: f64 = 2.0;

type Options = support::Options<Own>;

struct Own {
    plot: String,
    connections: usize,
    busy: usize,
    idle: Vec<usize>,
    most_processes: usize,
    idle_rounds: usize,
}

/// What is shown of a rung.
struct Rung {
    name: &'static str,
    /// The program; `None` is `rot13d`.
    example: Option<&'static str>,
    arguments: &'static str,
    /// Its own code, files or folders of this repository.
    code: &'static [&'static str],
    color: RGBColor,
}

const LADDER: [Rung; 7] = [
    Rung {
        name: "fork_server",
        example: Some("fork_server"),
        arguments: "--listen 127.0.0.1:{port}",
        code: &["examples/ladder/fork_server.rs"],
        color: RGBColor(217, 119, 6),
    },
    Rung {
        name: "busy_poll_server",
        example: Some("busy_poll_server"),
        arguments: "--listen 127.0.0.1:{port}",
        code: &["examples/ladder/busy_poll_server.rs"],
        color: RGBColor(220, 38, 38),
    },
    Rung {
        name: "select_server",
        example: Some("select_server"),
        arguments: "--listen 127.0.0.1:{port}",
        code: &["examples/ladder/select_server.rs"],
        color: RGBColor(168, 85, 247),
    },
    Rung {
        name: "event_server",
        example: Some("event_server"),
        arguments: "--listen 127.0.0.1:{port}",
        code: &["examples/ladder/event_server.rs"],
        color: RGBColor(14, 165, 233),
    },
    Rung {
        name: "buffered_event_server",
        example: Some("buffered_event_server"),
        arguments: "--listen 127.0.0.1:{port}",
        code: &["examples/ladder/buffered_event_server.rs"],
        color: RGBColor(22, 163, 74),
    },
    Rung {
        name: "rot13_by_line",
        example: Some("rot13_by_line"),
        arguments: "--listen 127.0.0.1:{port}",
        code: &["examples/rot13_by_line.rs"],
        color: RGBColor(120, 113, 108),
    },
    Rung {
        name: "rot13d",
        example: None,
        arguments: "--listen 127.0.0.1:{port} --workers 1 -q",
        code: &["src", "actors/src"],
        color: RGBColor(37, 99, 235),
    },
];

/// The rung that needs a process for each connection.
const FORK: usize = 0;
/// The last rung, and the same once more.
const ROT13D: usize = LADDER.len() - 1;
const CONTROL: usize = LADDER.len();

fn main() -> ExitCode {
    let defaults = Own {
        plot: "examples/ladder/cost.svg".to_owned(),
        connections: 64,
        busy: 8,
        idle: vec![10, 30, 100, 300, 1000, 3000, 10_000, 15_000],
        most_processes: 15_000,
        idle_rounds: 8,
    };
    let mut servers: Vec<_> = LADDER.iter().map(|rung| (rung.name.to_owned(), command(rung))).collect();
    servers.push(("rot13d, again".to_owned(), command(&LADDER[ROT13D])));
    support::main_of_these(USAGE, TIME, servers, defaults, own, run)
}

fn own(own: &mut Own, flag: &str, value: &str) -> Result<bool, String> {
    match flag {
        "--plot" => own.plot = value.to_owned(),
        "--connections" => own.connections = number(flag, value)?.max(1),
        "--busy" => own.busy = number(flag, value)?.max(1),
        "--idle" => {
            own.idle = value.split(',').map(|part| number(flag, part)).collect::<Result<_, _>>()?;
            own.idle.sort_unstable();
        }
        "--most-processes" => own.most_processes = number(flag, value)?,
        "--idle-rounds" => own.idle_rounds = number(flag, value)?.max(1),
        _ => return Ok(false),
    }
    Ok(true)
}

fn command(rung: &Rung) -> String {
    let program = match rung.example {
        // This program is in `deps`, beside `examples`.
        Some(name) => {
            let own = env::current_exe().unwrap_or_default();
            own.parent().and_then(Path::parent).unwrap_or(Path::new("")).join("examples").join(name)
        }
        None => PathBuf::from(env!("CARGO_BIN_EXE_rot13d")),
    };
    format!("{} {}", program.display(), rung.arguments)
}

/// `cargo bench` builds no examples.
fn build() -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--release", "--examples"]).status();
    match built {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo build --release --examples: {status}")),
        Err(error) => Err(format!("cannot run cargo: {error}")),
    }
}

/// A server and its children.
fn family(server: &Server) -> Vec<u32> {
    let mut family = vec![server.id()];
    let tasks = fs::read_dir(format!("/proc/{}/task", server.id())).into_iter().flatten().flatten();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        family.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    family
}

/// Nanoseconds on a processor.
fn ran(family: &[u32]) -> u64 {
    family.iter().map(|id| Scheduled::of(*id).ran).sum()
}

/// Bytes of memory: each page once, or its share of it, and the tables of pages.
fn memory(server: &Server) -> u64 {
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let each = family(server).into_iter().map(|id| {
        let read = |file| fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
        field(&read("smaps_rollup"), "Pss:") + field(&read("status"), "VmPTE:")
    });
    each.sum()
}

/// Lines of one kind: processor time for each, in nanoseconds, and how many came back in a second.
#[derive(Clone, Copy)]
struct Lines {
    cost: f64,
    rate: f64,
}

/// Measures a fresh server. Its children have to be gone before the next is measured.
fn fresh<T>(command: &str, options: &Options, measure: impl FnOnce(&Server) -> Result<T, String>) -> Result<T, String> {
    let server = Server::start(command, options.cores)?;
    let measured = measure(&server);
    let end = Instant::now() + SETTLING;
    while family(&server).len() > 1 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    measured
}

/// A load on so many connections.
fn converse(server: &Server, flight: usize, connections: usize, time: Duration) -> Result<Lines, String> {
    let client = Client::new(server.port, (LINE, flight))?;
    let mut peers = (0..connections).map(|number| client.connect(number)).collect::<Result<Vec<_>, _>>()?;
    // Each is served before the clock runs.
    client.converse(&mut peers, Duration::ZERO, false)?;
    let family = family(server);
    let (before, start) = (ran(&family), Instant::now());
    let answers = client.converse(&mut peers, time, false)?;
    let (spent, time) = (ran(&family) - before, start.elapsed());
    let lines = answers as f64 * (flight / LINE) as f64;
    Ok(Lines { cost: spent as f64 / lines, rate: lines / time.as_secs_f64() })
}

/// Adds idle sessions, each of which has answered a line, until there are so many. False if it serves no more.
fn add_idle(server: &Server, idle: &mut Vec<Peer>, count: usize) -> Result<bool, String> {
    let client = Client::new(server.port, (LINE, LINE))?;
    let mut buffer = vec![0; 1 << 10];
    while idle.len() < count {
        let wanted = BATCH.min(count - idle.len());
        let mut fresh = (0..wanted).map(|number| client.connect(number)).collect::<Result<Vec<_>, _>>()?;
        for peer in &mut fresh {
            client.ask(peer)?;
        }
        let end = Instant::now() + PATIENCE * 2;
        for mut peer in fresh {
            loop {
                match client.listen(&mut peer, &mut buffer) {
                    Ok(true) => break idle.push(peer),
                    Ok(false) if Instant::now() < end => std::thread::yield_now(),
                    // Refused, or left waiting.
                    Ok(false) | Err(_) => return Ok(false),
                }
            }
        }
    }
    Ok(true)
}

/// The least of all rounds.
#[derive(Clone, Copy)]
struct Point {
    /// Processor nanoseconds of a line.
    cost: f64,
    /// Bytes, of the whole server.
    memory: u64,
}

/// What a rung costs beside idle sessions.
#[derive(Default)]
struct Beside {
    /// By the number of idle sessions.
    points: BTreeMap<usize, Point>,
    /// Bytes of an idle session, the least.
    memory: Option<u64>,
    /// Where it stopped, unless it is where we did.
    most: Option<usize>,
    error: Option<String>,
}

fn measure_beside(server: &Server, index: usize, options: &Options, beside: &mut Beside) -> Result<(), String> {
    let own = &options.own;
    let client = Client::new(server.port, (LINE, LINE))?;
    let mut busy = (0..own.busy).map(|number| client.connect(number)).collect::<Result<Vec<_>, _>>()?;
    client.converse(&mut busy, Duration::ZERO, false)?;
    let before = memory(server);
    let mut idle = Vec::new();
    let ours = own.idle.iter().filter(|count| index != FORK || **count <= own.most_processes);
    for count in ours {
        let are_served = add_idle(server, &mut idle, *count)?;
        if !are_served {
            beside.most = Some(idle.len() + busy.len());
        }
        let family = family(server);
        let spent = ran(&family);
        let answers = client.converse(&mut busy, options.time, false)?;
        let new = Point { cost: (ran(&family) - spent) as f64 / answers as f64, memory: memory(server) };
        let least = beside.points.entry(idle.len()).or_insert(new);
        *least = Point { cost: least.cost.min(new.cost), memory: least.memory.min(new.memory) };
        if !are_served {
            break;
        }
    }
    let each = memory(server).saturating_sub(before) / (idle.len().max(1) as u64);
    beside.memory = Some(beside.memory.map_or(each, |least| least.min(each)));
    Ok(())
}

/// What becomes of a session whose peer sends and never reads: bytes taken, memory grown, and whether others are served.
fn measure_slow_reader(server: &Server) -> Result<(usize, u64, bool), String> {
    converse(server, STREAM, 8, Duration::from_millis(50))?;
    let client = Client::new(server.port, (LINE, LINE))?;
    let stuck = client.connect(0)?;
    let (lines, _) = support::lines(LINE, 64 << 10);
    let before = memory(server);
    let (mut taken, mut progress) = (0, Instant::now());
    while taken < OFFERED && progress.elapsed() < Duration::from_millis(300) {
        // Lines of 64 bytes begin at multiples of 64 in any block.
        match rustix::net::send(&stuck.socket, &lines[taken % lines.len()..], SendFlags::NOSIGNAL) {
            Ok(count) => (taken, progress) = (taken + count, Instant::now()),
            Err(rustix::io::Errno::AGAIN) => std::thread::yield_now(),
            Err(error) => return Err(format!("cannot send: {error}")),
        }
    }
    let grown = memory(server).saturating_sub(before);
    let others = converse(server, LINE, 1, Duration::from_millis(50)).is_ok();
    Ok((taken, grown, others))
}

/// Of all rounds, by rung.
#[derive(Default)]
struct Results {
    ping: Vec<Result<Lines, String>>,
    stream: Vec<Result<Lines, String>>,
    beside: Vec<Beside>,
    slow_readers: Vec<Result<(usize, u64, bool), String>>,
}

fn run(options: &Options) -> Result<String, String> {
    build()?;
    let count = options.servers.len();
    let unmeasured = || (0..count).map(|_| Ok(Lines { cost: f64::INFINITY, rate: 0.0 })).collect();
    let mut results = Results { ping: unmeasured(), stream: unmeasured(), ..Results::default() };
    results.beside.resize_with(count, Beside::default);
    let best = |so_far: &mut Result<Lines, String>, measured: Result<Lines, String>| match (&mut *so_far, measured) {
        (Ok(so_far), Ok(new)) => {
            *so_far = Lines { cost: so_far.cost.min(new.cost), rate: so_far.rate.max(new.rate) };
        }
        (_, Err(error)) => *so_far = Err(error),
        (Err(_), Ok(_)) => {}
    };
    for round in 0..options.rounds.max(options.own.idle_rounds) {
        for turn in 0..count {
            let index = (turn + round) % count;
            let (name, command) = &options.servers[index];
            eprint!("\rround {}: {name}                    ", round + 1);
            let connections = options.own.connections;
            if round < options.rounds {
                let measured = fresh(command, options, |server| converse(server, LINE, connections, options.time));
                best(&mut results.ping[index], measured);
                let measured = fresh(command, options, |server| converse(server, STREAM, connections, options.time));
                best(&mut results.stream[index], measured);
            }
            if round < options.own.idle_rounds {
                eprint!("beside idle connections    ");
                let beside = &mut results.beside[index];
                let measured = fresh(command, options, |server| measure_beside(server, index, options, beside));
                if let Err(error) = measured {
                    beside.error = Some(error);
                }
            }
        }
    }
    for (name, command) in &options.servers[..=ROT13D] {
        eprint!("\rslow readers: {name}                         ");
        results
            .slow_readers
            .push(Server::start(command, options.cores).and_then(|server| measure_slow_reader(&server)));
    }
    let plot = plot(&results, options).map_err(|error| format!("cannot draw: {error}"))?;
    fs::write(&options.own.plot, plot).map_err(|error| format!("cannot write {}: {error}", options.own.plot))?;
    Ok(report(&results, options))
}

fn report(results: &Results, options: &Options) -> String {
    let mut report = support::head("The ladder, rung by rung", "ladder");
    let own = &options.own;
    let _ = write!(
        report,
        "- {} rounds of {:?} for each load and rung, {} beside idle connections; least processor time, most lines\n\
         - lines of {LINE} bytes; ping-pong and stream (8 KiB in flight) on {} connections\n\n## Rungs\n\n\
         Control, rot13d against rot13d: ping-pong {}, stream {}.\n\n\
         | rung | ping-pong: lines/s | CPU ns a line | stream: lines/s | CPU ns a line | memory of an idle session | \
         most sessions | a peer that does not read | lines of code |\n|---|--:|--:|--:|--:|--:|--:|---|--:|\n",
        options.rounds,
        options.time,
        own.idle_rounds,
        own.connections,
        control(cost(&results.ping[ROT13D]), cost(&results.ping[CONTROL])),
        control(cost(&results.stream[ROT13D]), cost(&results.stream[CONTROL])),
    );
    let _ =
        writeln!(report, "| http_client | | | | | | 1 | | {} |", lines_of_code(&["examples/ladder/http_client.rs"]));
    for (index, rung) in LADDER.iter().enumerate() {
        let lines = |lines: &Result<Lines, String>| match lines {
            Ok(Lines { cost, rate }) => format!("{} | {}", rounded(*rate), rounded(*cost)),
            Err(error) => format!("{error} |"),
        };
        let beside = &results.beside[index];
        let reached = beside.points.keys().next_back().map_or(0, |idle| idle + own.busy);
        let most = match (beside.most, &beside.error) {
            (Some(most), _) => thousands(most),
            (None, Some(error)) => format!("{}: {error}", thousands(reached)),
            (None, None) => format!("over {}", thousands(reached)),
        };
        let slow = match &results.slow_readers[index] {
            Ok((taken, grown, others)) => {
                let others = if *others { "others are served" } else { "others are not served" };
                let stops = if *taken < OFFERED { "takes" } else { "takes all of" };
                format!("{stops} {:.1} MB, memory +{} kB, {others}", *taken as f64 / 1e6, grown / 1000)
            }
            Err(error) => error.clone(),
        };
        let _ = writeln!(
            report,
            "| {} | {} | {} | {} | {most} | {slow} | {} |",
            rung.name,
            lines(&results.ping[index]),
            lines(&results.stream[index]),
            beside.memory.map_or_else(String::new, |memory| format!("{} B", rounded(memory as f64))),
            thousands(lines_of_code(rung.code)),
        );
    }
    let _ = write!(
        report,
        "\n\"Over\" means that no more were tried. Memory is what the server's processes have of it, with their page tables; what \
         the kernel needs for sockets and for a process besides is not in it.\n\n\
         ## Beside idle connections\n\n{} connections with one line under way each, beside so many that have \
         answered one and wait. A rung that serves no more says at how many. The last row is the control. Drawn in `{}`.\n",
        own.busy,
        Path::new(&own.plot).file_name().unwrap_or_default().display(),
    );
    beside_table(&mut report, "CPU µs a line", results, options, |point| format!("{:.1}", point.cost / 1e3));
    let megabytes = |point: Point| format!("{:.1}", point.memory as f64 / 1e6);
    beside_table(&mut report, "memory of the server, MB", results, options, megabytes);
    report
}

fn beside_table(
    report: &mut String,
    title: &str,
    results: &Results,
    options: &Options,
    value: impl Fn(Point) -> String,
) {
    let _ = write!(report, "\n| {title} |");
    for count in &options.own.idle {
        let _ = write!(report, " {} |", thousands(*count));
    }
    let _ = write!(report, "\n|---|{}\n", "--:|".repeat(options.own.idle.len()));
    for (index, (name, _)) in options.servers.iter().enumerate() {
        let _ = write!(report, "| {name} |");
        let mut above = 0;
        for count in &options.own.idle {
            let _ = match results.beside[index].points.range(above..=*count).next_back() {
                Some((at, point)) if at == count => write!(report, " {} |", value(*point)),
                Some((at, point)) => write!(report, " {} at {} |", value(*point), thousands(*at)),
                None => write!(report, " |"),
            };
            above = count + 1;
        }
        report.push('\n');
    }
}

fn cost(lines: &Result<Lines, String>) -> f64 {
    lines.as_ref().map_or(f64::NAN, |lines| lines.cost)
}

/// How far the same is from itself.
fn control(one: f64, other: f64) -> String {
    let percent = (other / one - 1.0) * 100.0;
    let verdict = if percent.abs() <= CONTROL_PERCENT { "" } else { " (differences of that size mean nothing)" };
    format!("{percent:+.1} %{verdict}")
}

/// Rounded to three digits, because no more of them come back in the next run.
fn rounded(value: f64) -> String {
    let unit = if value < 1000.0 { 1.0 } else { 10_f64.powf(value.log10().floor() - 2.0) };
    thousands(((value / unit).round() * unit) as usize)
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Without empty lines, comments and tests.
fn lines_of_code(files: &[&str]) -> usize {
    fn count(path: &Path) -> usize {
        if let Ok(folder) = fs::read_dir(path) {
            return folder.flatten().map(|entry| count(&entry.path())).sum();
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        let code = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
        code.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
    }
    files.iter().map(|file| count(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file))).sum()
}

/// Colours that can be read on white and on black; text takes the page's.
const STYLE: &str = "<style>text { fill: #1f2328; font-family: sans-serif } \
                     @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }</style>\n";
const AXIS: RGBColor = RGBColor(128, 128, 128);

/// Two charts: what a line costs, and what the server has of memory.
fn plot(results: &Results, options: &Options) -> Result<String, Box<dyn std::error::Error>> {
    let mut drawing = String::new();
    {
        let root = SVGBackend::with_string(&mut drawing, (860, 900)).into_drawing_area();
        let (upper, lower) = root.split_vertically(450);
        let cost = |point: &Point| point.cost / 1e3;
        chart(&upper, ["Processor time of a line", "CPU time of a line (µs)"], results, options, cost)?;
        let memory = |point: &Point| point.memory as f64 / 1e6;
        chart(&lower, ["Memory of the server", "memory (MB)"], results, options, memory)?;
        root.present()?;
    }
    let head = drawing.find('>').map_or(0, |at| at + 1);
    drawing.insert_str(head, &format!("\n{STYLE}"));
    Ok(drawing)
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    [title, unit]: [&str; 2],
    results: &Results,
    options: &Options,
    value: impl Fn(&Point) -> f64,
) -> Result<(), DrawingAreaErrorKind<io::Error>> {
    let lines = || LADDER.iter().zip(&results.beside).filter(|(_, beside)| !beside.points.is_empty());
    let values = || lines().flat_map(|(_, beside)| beside.points.values().map(&value));
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(1.0, f64::max));
    let last = lines().filter_map(|(_, beside)| beside.points.keys().next_back()).max().copied().unwrap_or(10);
    let first = options.own.idle.first().copied().unwrap_or(1).max(1);
    let text = |size: u32| ("sans-serif", size).into_font().color(&AXIS);
    let mut chart = ChartBuilder::on(area)
        .caption(title, text(18))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (first as f64 * 0.9..last as f64 * 1.15).log_scale(),
            (least * 0.7..most * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .axis_style(AXIS)
        .bold_line_style(AXIS.mix(0.35))
        .light_line_style(AXIS.mix(0.12))
        .x_desc("idle connections")
        .y_desc(unit)
        .x_labels(8)
        .y_labels(8)
        .x_label_formatter(&|value| rounded(*value))
        .y_label_formatter(&|value| if *value < 10.0 { format!("{value}") } else { rounded(*value) })
        .axis_desc_style(text(15))
        .label_style(text(13))
        .draw()?;
    for (rung, beside) in lines() {
        let points: Vec<_> = beside.points.iter().map(|(idle, point)| ((*idle).max(1) as f64, value(point))).collect();
        let color = rung.color;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(rung.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], color.stroke_width(3)));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        // Where it stopped before we did.
        if let Some(end) = points.last().filter(|(idle, _)| (*idle as usize) < last) {
            let style = text(13).pos(Pos::new(HPos::Left, VPos::Center));
            let words = format!("ends at {}", thousands(end.0 as usize));
            chart.draw_series([EmptyElement::at(*end) + Text::new(words, (8, 0), style)])?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .margin(12)
        .label_font(text(14))
        .legend_area_size(28)
        .draw()?;
    Ok(())
}
