//! Nodes: the commands over all nodes of a cluster: whom they mean, and what has become of them.
//!
//! Rule: an answer that is a part says so: what is known is written, then an error names the nodes that are missing.
//! Not here: the same commands for this node alone (`reports`, `changes`), lists and questions over nodes (`cluster`).

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    cluster::{
        answers::{Answers, NodeAnswer, Outcome},
        builder::Cluster,
        fleet_limits::OnPartition,
        id::{GlobalId, NodeName},
        query::{ClusterFilter, ClusterOrder, ClusterQuery, ClusterSession, Unread, UnreadError},
    },
    console::{
        asked::Asked,
        fault::Fault,
        out::{Failure, Out},
        rows,
    },
    control::query::{SessionFilter, SessionInfo, SessionQuery},
    escape::Escaped,
    plural::Counted,
    seconds,
    units::rough_time,
    words::{self, WrongWord},
};

/// Sessions of one page of a list: each page reads the rows of those before it again.
const PAGE: usize = ClusterQuery::MAX_PAGE;

/// Sessions that a dry run names.
const FIRST: usize = 10;

/// What stands behind `node=`, for help.
pub(crate) const NODE: (&str, &str) =
    ("node=", "the sessions of a node by its name, or of all by node=*; also a session's ID as a.1f3a5c7d.17");

/// Returns true for a word that means sessions of other nodes.
fn is_over(word: &str) -> bool {
    word.starts_with("node=") || word.parse::<GlobalId>().is_ok()
}

impl Asked {
    /// Returns true if sessions of other nodes are meant.
    pub(crate) fn is_over_nodes(&self) -> bool {
        self.words.iter().any(|word| is_over(word))
    }

    /// The same for a list, where `all` are those of all nodes, if there is a cluster.
    pub(crate) fn is_list_over_nodes(&self) -> bool {
        self.is_over_nodes() || (self.setup.cluster.is_some() && self.words.iter().any(|word| word == "all"))
    }

    fn cluster(&self) -> Result<Cluster, Failure> {
        self.setup.cluster.clone().ok_or(Failure::Nodes(Fault::NoCluster))
    }
}

/// Words over nodes: a filter, and the order and page of a list.
struct Wanted {
    query: ClusterQuery,
    is_limited: bool,
}

/// Reads words of a filter over nodes, and those of a list.
fn wanted(asked: &Asked) -> Result<Wanted, WrongWord> {
    let mut filter = ClusterFilter::default();
    let mut order = ClusterOrder::default();
    let mut others = Vec::new();
    let mut words = asked.words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if let Some(name) = word.strip_prefix("node=") {
            if filter.node.is_some() {
                return Err(WrongWord::twice("node="));
            }
            if name != "*" {
                let name: Result<NodeName, _> = name.parse();
                filter.node = Some(name.map_err(|_| {
                    WrongWord::new(word, "is no node: use a name, as node=b, or node=* for all; list nodes has them")
                })?);
            }
        } else if let Ok(id) = word.parse::<GlobalId>() {
            if filter.id.replace(id).is_some() {
                return Err(WrongWord::new(
                    word,
                    "is a second session: write one, and the command again for each other",
                ));
            }
        } else if let Some(name) = word.strip_prefix("listener=").filter(|name| !name.is_empty()) {
            // Other nodes may have others.
            if filter.listener.replace(name.into()).is_some() {
                return Err(WrongWord::twice("listener="));
            }
        } else if word == "sort" {
            order = match words.next() {
                Some("id") => ClusterOrder::Id,
                Some("age") => ClusterOrder::Age,
                Some(key) => return Err(WrongWord::new(key, "is no order of a list over nodes: use id or age")),
                None => return Err(WrongWord::alone(word, "id or age")),
            };
        } else {
            others.push(word);
        }
    }
    let is_limited = others.contains(&"limit");
    let SessionQuery { filter: others, offset, limit, .. } = words::query(others, &[]).map_err(words::with_node)?;
    let SessionFilter { id, source, name, tag, state, age_at_least, idle_at_least, outbox_at_least, .. } = others;
    if let Some(id) = id {
        let id = id.get().to_string();
        return Err(WrongWord::new(&id, "is a session of one node: write its id, as a.1f3a5c7d.17; list all has them"));
    }
    (filter.source, filter.name, filter.tag, filter.state) = (source, name, tag, state);
    (filter.age_at_least, filter.idle_at_least, filter.outbox_at_least) =
        (age_at_least, idle_at_least, outbox_at_least);
    let query = ClusterQuery::from(filter).order(order).offset(offset).limit(limit);
    Ok(Wanted { query, is_limited })
}

/// Reads words of a filter that has to be written, since `node=` only says where: who means everybody there says so.
fn written_filter(asked: &Asked) -> Result<ClusterFilter, WrongWord> {
    if let Some(word) = asked.words.iter().find(|word| ["sort", "limit", "offset"].contains(&word.as_str())) {
        return Err(WrongWord::new(word, format_args!("is for list: {} takes filters alone", asked.name)));
    }
    let filter = wanted(asked)?.query.filter;
    if let [word] = &asked.words[..]
        && word.starts_with("node=")
    {
        let problem = format_args!(
            "says only where: write a filter too, or all for every session there, as {} {word} all",
            asked.name
        );
        return Err(WrongWord::new(word, problem));
    }
    Ok(filter)
}

/// Fails where nothing was found since no node has the name of the filter. A node that has died is one for as long as its lease
/// lasts.
async fn check_node(cluster: &Cluster, filter: &ClusterFilter) -> Result<(), Failure> {
    let Some(name) = &filter.node else { return Ok(()) };
    let nodes = cluster.nodes().await.map_err(Fault::from)?;
    if nodes.iter().any(|node| node.id.name == *name) {
        return Ok(());
    }
    let names: Vec<_> = nodes.iter().map(|node| node.id.name.to_string()).collect();
    let name = name.to_string();
    Err(WrongWord::listed(&name, "node with a lease", names.iter().map(String::as_str), "list nodes").into())
}

/// Checks the node of a filter for which nobody has answered.
async fn check_answers(cluster: &Cluster, filter: &ClusterFilter, answers: &Answers) -> Result<(), Failure> {
    match &answers.nodes[..] {
        [NodeAnswer { id: None, outcome: Outcome::NodeGone, .. }] => check_node(cluster, filter).await,
        _ => Ok(()),
    }
}

/// Fails if sessions of these nodes are missing.
fn check_read(unread: &[Unread]) -> Result<(), Failure> {
    if unread.is_empty() {
        return Ok(());
    }
    let nodes: Vec<_> = unread.iter().map(|unread| format!("{}: {}", unread.node, unread.error)).collect();
    Err(Fault::Unread(nodes.join(", ")).into())
}

/// Lists the nodes.
pub(crate) async fn nodes(asked: Asked) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Record<'a> {
        node: &'a NodeName,
        incarnation: String,
        sessions: u64,
        /// Unit: seconds.
        lease_left: f64,
        about: &'a str,
        is_own: bool,
    }
    let cluster = asked.cluster()?;
    let nodes = cluster.nodes().await.map_err(Fault::from)?;
    if !asked.out.is_json() {
        asked.out.line(format_args!("{:<24} {:<12} {:>8} {:>6} ABOUT", "NODE", "INCARNATION", "SESSIONS", "LEASE"));
    }
    let own = cluster.node();
    for node in &nodes {
        let is_own = own.as_ref() == Some(&node.id);
        let (name, incarnation) = (&node.id.name, format!("{:08x}", node.id.incarnation));
        let about = Escaped::new(&node.about).to_string();
        let lease = rough_time(node.lease_left);
        let mark = if is_own { " (this one)" } else { "" };
        let text =
            format_args!("{:<24} {incarnation:<12} {:>8} {lease:>6} {about}{mark}", name.to_string(), node.sessions);
        let lease_left = seconds::of(node.lease_left);
        let record = Record {
            node: name,
            incarnation: incarnation.clone(),
            sessions: node.sessions,
            lease_left,
            about: &node.about,
            is_own,
        };
        asked.out.record(&record, text);
        asked.out.room().await;
    }
    if !asked.out.is_json() {
        asked.out.line(format_args!("{}, this one is {}", Counted(nodes.len(), "node"), cluster.name()));
    }
    Ok(())
}

/// Writes the header of a table of sessions over nodes, where the answer is text.
fn header(out: &Out) {
    if !out.is_json() {
        out.line(format_args!("{:<32} {:<24} {:<12} {:>7}", "ID", "PEER", "LISTENER", "AGE"));
    }
}

fn row(out: &Out, session: &ClusterSession) {
    let tags: Vec<std::sync::Arc<str>> = session.tags.iter().map(|tag| tag.as_str().into()).collect();
    let names = rows::names(session.name.as_deref(), &tags);
    let text = format_args!(
        "{:<32} {:<24} {:<12} {:>7}{names}",
        session.id.to_string(),
        session.peer,
        session.listener.as_deref().unwrap_or("-"),
        rough_time(session.age),
    );
    out.record(session, text);
}

/// Lists sessions of all nodes.
pub(crate) async fn list(asked: Asked) -> Result<(), Failure> {
    let cluster = asked.cluster()?;
    let Wanted { mut query, is_limited } = wanted(&asked)?;
    let mut left = if is_limited { query.limit } else { usize::MAX };
    let (mut shown, mut total, mut unread) = (0_u64, None, Vec::new());
    loop {
        query.limit = left.min(PAGE);
        let page = cluster.list(query.clone()).await.map_err(Fault::from)?;
        if total.is_none() {
            if page.total == 0 && page.unread.is_empty() {
                check_node(&cluster, &query.filter).await?;
            }
            header(&asked.out);
        }
        total.get_or_insert(page.total);
        for session in &page.sessions {
            row(&asked.out, session);
            asked.out.room().await;
        }
        let count = page.sessions.len();
        shown += count as u64;
        left -= count;
        // Behind a page that lacks what the store does not say, the next one begins elsewhere.
        let is_cut = page.unread.iter().any(|unread| matches!(unread.error, UnreadError::Store(_)));
        merge(&mut unread, page.unread);
        if left == 0 || count < query.limit || is_cut {
            break;
        }
        query.offset += count;
    }
    if !asked.out.is_json() {
        asked.out.line(format_args!("{shown} of {}", Counted(total.unwrap_or_default(), "session")));
    }
    check_read(&unread)
}

/// Adds the nodes of another page, each once, with what was found last.
fn merge(unread: &mut Vec<Unread>, more: Vec<Unread>) {
    unread.retain(|unread| more.iter().all(|other| other.node != unread.node));
    unread.extend(more);
    unread.sort_by(|a, b| a.node.cmp(&b.node));
}

/// Counts sessions of all nodes.
pub(crate) async fn count(asked: Asked) -> Result<(), Failure> {
    let cluster = asked.cluster()?;
    let query = wanted(&asked)?.query.limit(0);
    let page = cluster.list(query.clone()).await.map_err(Fault::from)?;
    if page.total == 0 && page.unread.is_empty() {
        check_node(&cluster, &query.filter).await?;
    }
    asked.out.record(&json!({ "sessions": page.total }), format_args!("{}", page.total));
    check_read(&page.unread)
}

/// A session of this node, as the store has it.
fn own_session(id: GlobalId, session: &SessionInfo) -> ClusterSession {
    let opened = seconds::now().saturating_sub(session.age);
    ClusterSession {
        id,
        peer: session.peer.to_string(),
        listener: session.listener.map(|listener| rows::listener(Some(listener))),
        opened: opened.as_millis() as u64,
        age: session.age,
        name: session.name.as_deref().map(str::to_owned),
        tags: session.tags.iter().map(|tag| tag.to_string()).collect(),
    }
}

/// The limits over nodes and the health of the store: an object, and a line of text for each.
pub(crate) fn summary(cluster: &Cluster) -> (Value, [(&'static str, String); 2]) {
    let (limits, health) = (cluster.limits(), cluster.health());
    let rate = limits.accept_rate_per_source.map(|rate| format!("{}/{}", rate.per_second, rate.burst));
    let policy = match limits.on_partition {
        OnPartition::Open => "open",
        OnPartition::Closed => "closed",
    };
    let off = || "off".to_owned();
    let count = |count: Option<u64>| count.map_or_else(off, |count| count.to_string());
    let (all, of_source) = (count(limits.max_sessions), count(limits.max_sessions_per_source));
    let text = format!(
        "max-sessions {all}, max-sessions-per-source {of_source}, accept-rate-per-source {}, on-partition {policy}",
        rate.clone().unwrap_or_else(off)
    );
    let object = json!({
        "node": cluster.name(),
        "store": health,
        "limits": {
            "max_sessions": limits.max_sessions,
            "max_sessions_per_source": limits.max_sessions_per_source,
            "accept_rate_per_source": rate,
            "on_partition": policy,
        },
    });
    (object, [("cluster-store", health.to_string()), ("cluster-limits", text)])
}

/// Shows a session by its id.
pub(crate) async fn show(asked: &Asked, id: GlobalId) -> Result<(), Failure> {
    let cluster = asked.cluster()?;
    let session = match cluster.is_own(&id.node) {
        // The store may be lost.
        true => asked.server.session(id.session).await?.map(|session| own_session(id.clone(), &session)),
        false => {
            let page = cluster.list(ClusterFilter::id(id.clone())).await.map_err(Fault::from)?;
            let session = page.sessions.into_iter().next();
            if session.is_none() {
                check_read(&page.unread)?;
            }
            session
        }
    };
    let Some(session) = session else {
        return Err(WrongWord::new(&id.to_string(), "is no live session: list all has them all").into());
    };
    if asked.out.is_json() {
        asked.out.object(&session);
        return Ok(());
    }
    let tags: Vec<_> = session.tags.iter().map(|tag| Escaped::new(tag).to_string()).collect();
    let fields = [
        ("id", session.id.to_string()),
        ("node", session.id.node.name.to_string()),
        ("peer", session.peer.clone()),
        ("listener", session.listener.clone().unwrap_or_else(|| "-".to_owned())),
        ("age", rough_time(session.age)),
        ("name", session.name.as_deref().map(|name| Escaped::new(name).to_string()).unwrap_or_default()),
        ("tags", tags.join(" ")),
    ];
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        asked.out.line(format_args!("{name:<12} {value}"));
    }
    Ok(())
}

/// Writes the answers of nodes, and which are missing.
fn write_answers(asked: &Asked, answers: &Answers) -> Result<(), Failure> {
    for answer in &answers.nodes {
        asked.out.record(answer, format_args!("{answer}"));
    }
    let missing = answers.nodes.iter().filter(|answer| !answer.outcome.is_answered()).map(ToString::to_string);
    let others = answers.others.as_ref().map(|error| format!("other nodes: {error}"));
    let missing: Vec<_> = missing.chain(others).collect();
    if missing.is_empty() { Ok(()) } else { Err(Fault::Partial(missing.join(", ")).into()) }
}

/// Ends sessions of any nodes.
pub(crate) async fn kick(asked: Asked, is_dry: bool, goodbye: Bytes) -> Result<(), Failure> {
    let cluster = asked.cluster()?;
    let filter = written_filter(&asked)?;
    if is_dry {
        let page = cluster.list(ClusterQuery::from(filter.clone()).limit(FIRST)).await.map_err(Fault::from)?;
        if page.total == 0 && page.unread.is_empty() {
            check_node(&cluster, &filter).await?;
        }
        let first: Vec<_> = page.sessions.iter().map(|session| &session.id).collect();
        let object = json!({ "dry_run": true, "sessions": page.total, "first": first });
        asked.out.record(&object, format_args!("would end {}", Counted(page.total, "session")));
        if !asked.out.is_json() && !page.sessions.is_empty() {
            header(&asked.out);
            page.sessions.iter().for_each(|session| row(&asked.out, session));
        }
        return check_read(&page.unread);
    }
    asked.log(format_args!("{}", asked.typed()));
    let answers = cluster.kick(filter.clone(), goodbye).await.map_err(Fault::from)?;
    check_answers(&cluster, &filter, &answers).await?;
    log::info!(
        who:% = asked.who, command = asked.name, sessions = answers.sessions();
        "console: {}: {} over nodes has ended {}", asked.who, asked.name, Counted(answers.sessions(), "session")
    );
    write_answers(&asked, &answers)
}

/// Writes to sessions of any nodes.
pub(crate) async fn push(asked: Asked, text: Bytes) -> Result<(), Failure> {
    let cluster = asked.cluster()?;
    let filter = written_filter(&asked)?;
    asked.log(format_args!("{}", asked.typed()));
    let answers = cluster.push(filter.clone(), text).await.map_err(Fault::from)?;
    check_answers(&cluster, &filter, &answers).await?;
    write_answers(&asked, &answers)
}
