//! URLs that are read and refused; scripts on a real server whose clock a test sets, beside a model that shares nothing with them.

use std::collections::{BTreeMap, HashMap};

use crate::cluster::redis::{
    Redis, RedisConfigError, answer,
    scripts::{ACQUIRE, NODES, Program, REGISTER, STAGE, UNREGISTER},
    url::{Host, Place, Secret, Target},
};

#[path = "../../../tests/support/redis.rs"]
mod servers;

use servers::StoreServer;

fn host(name: &str, port: u16) -> Host {
    Host { name: name.to_owned(), port }
}

#[test]
fn urls_are_read() {
    let place = |url: &str| Place::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    for (url, target, shown) in [
        ("redis://store", Target::Tcp(host("store", 6379)), "redis://store:6379"),
        ("valkey://10.0.0.1:7000/", Target::Tcp(host("10.0.0.1", 7000)), "redis://10.0.0.1:7000"),
        ("redis://[::1]/3", Target::Tcp(host("::1", 6379)), "redis://[::1]:6379/3"),
        ("rediss://u:p@store:1", Target::Tcp(host("store", 1)), "rediss://store:1"),
        ("unix:///run/r.sock?db=2", Target::Unix("/run/r.sock".into()), "unix:///run/r.sock?db=2"),
        ("redis+unix:/run/a%20b", Target::Unix("/run/a b".into()), "unix:///run/a b"),
        (
            "redis-sentinel://a,[::1]:5/main/1",
            Target::Sentinel { sentinels: vec![host("a", 26379), host("::1", 5)], master: "main".to_owned() },
            "redis-sentinel://a:26379,[::1]:5/main/1",
        ),
    ] {
        assert_eq!(place(url).target, target, "{url}");
        assert_eq!(place(url).to_string(), shown, "{url}");
    }
    assert!(place("rediss-sentinel://a/main").is_tls);
    let who = |url: &str| {
        let place = place(url);
        (place.username, place.password.map(|password| password.as_str().to_owned()))
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(who("redis://store"), (None, None));
    assert_eq!(who("redis://alice@store"), (text("alice"), None));
    assert_eq!(who("redis://:p%40ss%2F%25@store"), (None, text("p@ss/%")));
    assert_eq!(who("redis://alice:a:b@c/d?e#f@store/1"), (text("alice"), text("a:b@c/d?e#f")));
    assert_eq!(who("unix:///s?user=alice&pass=a%26b"), (text("alice"), text("a&b")));
}

#[test]
fn urls_that_are_wrong_are_refused_with_advice() {
    use RedisConfigError as Error;
    for (url, wants) in [
        ("", "redis://HOST:PORT"),
        ("store:6379", "redis://HOST:PORT"),
        ("http://store", "redis://HOST:PORT"),
        ("redis://", "a name or an address"),
        ("redis:store", "a name or an address"),
        ("redis://sto re", "a name or an address"),
        ("redis://[::1", "a name or an address"),
        ("redis://store:0", "1 to 65535"),
        ("redis://store:65536", "1 to 65535"),
        ("redis://store:+1", "1 to 65535"),
        ("redis://store/x", "its number"),
        ("redis://store/-1", "its number"),
        ("redis://store?db=1", "remove it"),
        ("redis://a,b", "redis-sentinel://"),
        ("redis-sentinel://a,b", "behind the sentinels"),
        ("unix://", "unix:///run/redis/redis.sock"),
        ("unix:relative", "unix:///run/redis/redis.sock"),
        ("unix:///s?password=x", "remove it"),
        ("redis://a:%zz@store", "%XX"),
        ("redis://a:%ff@store", "%XX"),
    ] {
        let error = Place::parse(url).expect_err(url).to_string();
        assert!(error.contains(wants), "{url}: {error}");
    }
    for prefix in ["", "a{b", "a}", "a b", "ä", "*", "a?b", "[a", "a\\", &"x".repeat(129)] {
        assert!(matches!(Redis::at("redis://s").prefix(prefix).build(), Err(Error::Prefix { .. })), "{prefix}");
    }
    let zero = std::time::Duration::ZERO;
    assert!(matches!(Redis::at("redis://s").timeout(zero).build(), Err(Error::Time { .. })));
    assert!(matches!(Redis::at("redis://s").connect_timeout(zero).build(), Err(Error::Time { .. })));
    let for_nobody = Redis::at("redis://s").sentinel_password(None, "x").build();
    assert_eq!(for_nobody.expect_err("no Sentinels"), Error::SentinelNotAsked);
}

#[test]
fn no_text_of_ours_has_a_password() {
    let secret = "sesame8";
    // Mistakes in which a password stands where something else should.
    for url in [
        "redis://user:sesame8",
        "redis://:sesame8",
        "redis://user:sesame8@",
        "redis://user:sesame8@host:port",
        "sesame8",
        "sesame8@host:6379",
        "user-sesame8@host://",
        "redis://user:%sesame8@host",
        "unix:///s?pass=a&sesame8",
        "redis://u:sesame8@host/x",
        "redis://host?pass=sesame8",
    ] {
        let error = Place::parse(url).expect_err(url);
        assert!(!format!("{error} {error:?}").contains(secret), "{url}: {error} {error:?}");
    }
    let url = "redis-sentinel://user:sesame8@host/main";
    let builder = Redis::at(url).password("sesame8\n").sentinel_password(None, "sesame8");
    assert!(!format!("{builder:?}").contains(secret), "{builder:?}");
    let store = builder.build().unwrap();
    assert_eq!(store.to_string(), "redis-sentinel://host:26379/main");
    assert!(!format!("{store:?}").contains(secret), "{store:?}");
    // A server that repeats what it was told.
    let said = answer::clean("ERR unknown command 'HELLO' '3' 'AUTH' 'sesame8'\u{7}", &[Secret::new(secret)]);
    assert_eq!(said, r"ERR unknown command 'HELLO' '3' 'AUTH' '(secret)'\u{7}");
}

#[test]
fn errors_of_a_server_say_what_to_look_at() {
    let shown = |error: &::redis::RedisError| answer::connection_error(error).0.to_string();
    let parse = ::redis::RedisError::from((::redis::ErrorKind::Parse, "cannot parse"));
    assert!(shown(&parse).ends_with("check the host, the port and the scheme"), "{}", shown(&parse));
    let detail = "invalid username-password pair or user is disabled.".to_owned();
    let refused = shown(&::redis::make_extension_error("WRONGPASS".to_owned(), Some(detail)));
    assert!(
        refused.contains("user is disabled; check the user and the password; at the server `ACL SETUSER"),
        "{refused}"
    );
}

/// A server whose scripts have a clock that the test sets, in µs.
struct Clocked<'a> {
    server: &'a StoreServer,
    micros: u64,
    /// A text of the scripts and what stands in its place.
    fault: Option<(&'a str, &'a str)>,
}

impl<'a> Clocked<'a> {
    fn empty(server: &'a StoreServer, fault: Option<(&'a str, &'a str)>) -> Self {
        server.must(&["FLUSHALL"]);
        server.must(&["SCRIPT", "FLUSH"]);
        // Far from the server's own clock, so that it ends no key.
        Self { server, micros: 4_000_000_000_000_000, fault }
    }

    fn run(&self, program: &Program, words: &[String]) -> Vec<String> {
        const TIME: &str = "redis.call('TIME')";
        assert_eq!(program.text.matches(TIME).count(), 1, "the time is asked for in one place");
        let (seconds, rest) = (self.micros / 1_000_000, self.micros % 1_000_000);
        let text = program.text.replace(TIME, &format!("{{'{seconds}', '{rest}'}}"));
        // Keys of rates live by the server's clock, which stands still here.
        let text = text.replace("'PX', whole(", "'PX', 3600000 + whole(");
        let text = self.fault.map_or(text.clone(), |(from, to)| text.replace(from, to));
        let mut command = vec!["EVAL", &text, "1", "{t}leases", "{t}"];
        command.extend(words.iter().map(String::as_str));
        let answer = self.server.must(&command);
        answer.lines().map(str::to_owned).collect()
    }
}

/// What the scripts are to do, reckoned otherwise: rates by the time at which a bucket is full, as a fraction.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<String, Life>,
    /// When it is full, in µs times tokens a second, and when that was last set or seen to lie ahead, in µs.
    rates: HashMap<String, (u128, u128)>,
}

#[derive(Default)]
struct Life {
    ends: u64,
    /// What it asked for when it began.
    lease: u64,
    serial: u64,
    held: HashMap<String, u64>,
}

impl Model {
    fn sum(&self, resource: &str, now: u64) -> u64 {
        let live = self.nodes.values().filter(|life| life.ends > now);
        live.filter_map(|life| life.held.get(resource)).sum()
    }

    fn full_at(&mut self, resource: &str, per_second: u128, micros: u128) -> u128 {
        let Some((full, since)) = self.rates.get_mut(resource) else { return micros * per_second };
        if micros < *since {
            // A clock that was set back: what was missing is still missing.
            *full -= (*since - micros) * per_second;
            *since = micros;
        }
        (*full).max(micros * per_second)
    }
}

/// Compares by chance. Returns how often each verdict came, or what differs.
fn compare(mut store: Clocked<'_>, seed: u64) -> Result<[u32; 3], String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model = Model::default();
    let rates: Vec<(String, u128, u128)> =
        (0..4).map(|at| (format!("rate{at}"), [1, 3, 7, 1_000_000][at], [1, 2, 5, 3][at])).collect();
    let word = |text: &str| text.to_owned();
    let mut granted = [0; 3];
    for step in 0..4000 {
        store.micros = match random.u32(..200) {
            0..5 => store.micros + random.u64(..20_000_000),
            // Somebody sets the clock, forward or back.
            5 => store.micros + random.u64(..10_000_000_000),
            6..12 => store.micros - random.u64(..5_000_000),
            12 => store.micros - random.u64(..100_000_000),
            _ => store.micros + random.u64(..400_000),
        };
        let micros = store.micros;
        let now = micros / 1000;
        let id = format!("{}.0000000{}", random.choice(["a", "b"]).unwrap(), random.u8(..2));
        let is_live = model.nodes.get(&id).is_some_and(|life| life.ends > now);
        match random.u32(..12) {
            0 => {
                let longest = if random.bool() { 300_000 } else { 5_000 };
                let lease = random.u64(1..longest);
                let begins = random.bool();
                let count = random.u64(..3);
                let shares: &[String] =
                    if begins { &[word("1"), word("all"), count.to_string()] } else { &[word("0")] };
                // They may be told before, which alone is nothing to anybody.
                let key = format!("begins:{id}:{step}");
                if random.bool() {
                    let words = [key.clone(), word("0"), lease.to_string(), word("all"), count.to_string()];
                    same(step, &store.run(&STAGE, &words), &vec![word("1")])?;
                }
                let is_staged = begins && store.server.must(&["EXISTS", &format!("{{t}}{key}")]) == "1";
                let (staged, shares) =
                    if is_staged { ([key, word("1")], &[word("0")][..]) } else { ([word(""), word("0")], shares) };
                let mut words =
                    vec![id.clone(), lease.to_string(), u8::from(begins).to_string(), word("about"), word("")];
                words.extend(staged);
                words.extend_from_slice(shares);
                words.extend([word("0"), word("0")]);
                let answer = store.run(&REGISTER, &words);
                same(step, &answer, &vec![u8::from(begins || is_live).to_string()])?;
                if begins || is_live {
                    // For good, also if the clock goes back.
                    model.nodes.retain(|_, life| life.ends > now);
                    let far = model.nodes.values_mut().filter(|life| life.ends > now + lease);
                    far.for_each(|life| life.ends = life.ends.min(now + life.lease));
                }
                if begins {
                    let held = HashMap::from([(word("all"), count)]);
                    model.nodes.insert(id, Life { ends: now + lease, lease, serial: 0, held });
                } else if is_live && let Some(life) = model.nodes.get_mut(&id) {
                    life.ends = now + lease;
                }
            }
            1 => {
                store.run(&UNREGISTER, std::slice::from_ref(&id));
                model.nodes.remove(&id);
            }
            2 => {
                let answer = store.run(&NODES, &[]);
                let live = model.nodes.iter().filter(|(_, life)| life.ends > now);
                let mut expected: Vec<_> = live.map(|(id, life)| (id.clone(), (life.ends - now).to_string())).collect();
                let mut found: Vec<_> = answer.chunks(4).map(|node| (node[0].clone(), node[3].clone())).collect();
                expected.sort();
                found.sort();
                same(step, &found, &expected)?;
            }
            _ => {
                let serial = model.nodes.get(&id).map_or(1, |life| life.serial) + random.u64(..3);
                let mut words = vec![id.clone(), serial.to_string()];
                let held = random.u64(..3);
                let tells = random.bool();
                if tells {
                    words.extend([word("1"), word("all"), held.to_string()]);
                } else {
                    words.push(word("0"));
                }
                let most = random.u64(1..40);
                let wanted: Vec<_> = (0..random.usize(..5)).map(|_| random.choice(&rates).unwrap().clone()).collect();
                words.push(wanted.len().to_string());
                for (rate, per_second, burst) in &wanted {
                    words.extend([word("1"), word("all"), most.to_string(), word("1"), rate.clone()]);
                    words.extend([per_second.to_string(), burst.to_string()]);
                }
                let answer = store.run(&ACQUIRE, &words);
                let late = model.nodes.get(&id).is_some_and(|life| serial <= life.serial);
                if !is_live || late {
                    same(step, &answer, &vec![word(if is_live { "2" } else { "1" })])?;
                    continue;
                }
                let life = model.nodes.get_mut(&id).unwrap();
                life.serial = serial;
                if tells {
                    life.held.insert(word("all"), held);
                }
                // Done, and each entry is one of ours.
                let mut expected = vec![0, 0];
                for (rate, per_second, burst) in &wanted {
                    if model.sum("all", now) >= most {
                        expected.push(1);
                        granted[1] += 1;
                        continue;
                    }
                    let micros = u128::from(micros);
                    let full = model.full_at(rate, *per_second, micros) + 1_000_000;
                    let is_empty = full > micros * per_second + burst * 1_000_000;
                    if is_empty {
                        expected.push(-1);
                        granted[2] += 1;
                        continue;
                    }
                    model.rates.insert(rate.clone(), (full, micros));
                    *model.nodes.get_mut(&id).unwrap().held.entry(word("all")).or_default() += 1;
                    expected.push(0);
                    granted[0] += 1;
                }
                let numbers = answer.iter().map(|number| number.parse()).collect::<Result<Vec<i64>, _>>();
                let answer = numbers.map_err(|_| format!("step {step}: {answer:?}"))?;
                same(step, &answer, &expected)?;
            }
        }
    }
    Ok(granted)
}

fn same<T: PartialEq + std::fmt::Debug>(step: u32, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("step {step}: {found:?} in place of {expected:?}")) }
}

#[test]
#[ignore = "needs redis-server; tests/run runs it"]
fn counts_and_rates_are_exact_by_any_clock() {
    let server = StoreServer::start(servers::Program::Redis);
    let seed = fastrand::u64(..);
    let verdicts = compare(Clocked::empty(&server, None), seed).unwrap_or_else(|error| panic!("seed {seed}, {error}"));
    assert!(verdicts.iter().all(|count| *count > 10), "each verdict is tried: {verdicts:?}");
    // What is compared would be seen.
    for fault in [
        ("if since > micros then", "if since > 2 * micros then"),
        ("math.max(0, micros - since) * per_second", "math.max(0, micros - since)"),
        ("+ 1000000 > rate[3]", "+ 1000000 >= rate[3]"),
        ("sum(counts[place]) >= most", "sum(counts[place]) > most"),
        ("sums[resource] = sums[resource] + 1", ""),
        ("'(' .. whole(now), '+inf') end", "'-inf', '+inf') end"),
        ("tonumber(serial) <= done", "tonumber(serial) < done"),
        ("redis.call('HSET', node, 'serial', serial)", ""),
        ("if not is_live then return {1} end", ""),
        ("'ZADD', leases, whole(most), far[place]", "'ZSCORE', leases, far[place]"),
        ("'RENAME', P .. staged, held", "'HGETALL', held"),
    ] {
        let is_there = |program: &Program| program.text.contains(fault.0);
        assert!([&REGISTER, &ACQUIRE].into_iter().any(|program| is_there(program)), "{fault:?}");
        // Some take their time to show.
        let is_seen = |seed: u64| compare(Clocked::empty(&server, Some(fault)), seed).is_err();
        assert!((0..6).any(|more| is_seen(seed ^ more)), "seed {seed}: {fault:?} is not seen");
    }
}
