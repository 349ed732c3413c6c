// The live page: what a server says of itself once a second, its sessions and its last ends.
//
// Everything that comes from the server becomes text by `textContent`: a peer's name is never markup. History lives here alone.
// Paths are relative, so that the page works under any prefix.

const HISTORY = 300_000; // milliseconds that plots show
const SILENCE = 10_000; // milliseconds without an event, which come once a second, until the connection counts as lost
const GAP = 3_500; // milliseconds between two samples that are not joined by a line
const MOST_ENDS = 100;
const MOST_ROWS = 100_000; // rows that can be scrolled to: a taller table is more than browsers draw
const OVERSCAN = 8; // rows kept above and below those in sight
const REFRESH = 2_000; // milliseconds between two looks at the rows in sight

const $ = (id) => document.getElementById(id);

// --- Text -------------------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

const count = (n) => whole.format(n);
const short = (n) => (n < 10_000 ? whole.format(Math.round(n)) : compact.format(n));
const perSecond = (n) => (n == null ? "–" : n > 0 && n < 10 ? n.toFixed(1).replace(/\.0$/, "") : short(n));

function bytes(n) {
  if (n == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  for (; n >= 1000 && unit < units.length - 1; unit += 1) n /= 1024;
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

function time(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const [d, h, m, s] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60, seconds % 60].map(Math.floor);
  if (d > 0) return `${d}d ${h}h`;
  return h > 0 ? `${h}h ${m}m` : `${m}m ${s}s`;
}

const plural = (n, one) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;
const sum = (counts) => Object.values(counts ?? {}).reduce((total, n) => total + n, 0);

// Reasons in plain words. Filters have names of their own for faults; those stand for themselves.
const REASONS = {
  "peer-eof": "the peer closed", "peer-reset": "the peer reset", truncated: "cut short by the peer",
  "preface-timeout": "no handshake in time", "preface-evicted": "too many handshakes", "filter-failed": "filter failed",
  "upgrade-injection": "text before the handshake", "upgrade-timeout": "no handshake in time", refused: "refused once known",
  probe: "a monitor looked in", overlong: "line too long", "closed-by-handler": "the server closed", drained: "the server drained",
  aborted: "cut by the server", "handler-panicked": "a fault in the server", "handler-stalled": "a fault in the server",
  "wait-timeout": "an answer took too long", "idle-timeout": "no line in time", "line-timeout": "line not finished in time",
  "write-stalled": "the peer does not read", "outbox-full": "too much output waits", evicted: "memory budget used up",
  "max-age": "reached its age", kicked: "an operator ended it", "worker-stopped": "its worker stopped",
  "io-read": "reading failed", "io-write": "writing failed",
  "max-sessions": "server full", "max-sessions-per-source": "too many of one source", "accept-rate": "too many a second",
  "accept-rate-per-source": "too many a second of one source", denied: "not allowed", "listener-full": "listener full",
  gate: "refused by a gate", "gate-timeout": "no answer from a gate", "cluster-full": "the cluster has enough sessions",
  "cluster-source": "too many of one source in the cluster", "cluster-rate": "too many a second of one source in the cluster",
  "store-lost": "the cluster's store is lost",
};
const FAULTS = new Set(["handler-panicked", "handler-stalled", "worker-stopped", "aborted"]);

function setText(element, text) {
  text = String(text);
  if (element.textContent !== text) element.textContent = text;
}

function setHidden(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

function setClass(element, name) {
  if (element.className !== name) element.className = name;
}

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text != null) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function say(text) {
  setText($("announce"), text);
}

// Makes the children of `body` those of `items`. They stay with their keys, so that focus stays where it is.
function fill(body, items, keyOf, make, update) {
  const old = new Map([...body.children].map((row) => [row.dataset.key, row]));
  items.forEach((item, at) => {
    const key = String(keyOf(item));
    let row = old.get(key);
    old.delete(key);
    if (!row) {
      row = make(item);
      row.dataset.key = key;
    }
    if (update) update(row, item);
    if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null);
  });
  old.forEach((row) => row.remove());
}

function rowOf(...classes) {
  const row = element("tr");
  for (const name of classes) row.append(element("td", null, name));
  return row;
}

function setCells(row, ...texts) {
  texts.forEach((text, at) => text != null && setText(row.cells[at], text));
}

// --- Plots ------------------------------------------------------------------------------------------------------------

const samples = []; // { at, live, lines, in, out, refused }: a number that is not known is null

class Plot {
  constructor(id, name, series, show) {
    Object.assign(this, { canvas: $(id), name, series, show, pointer: null });
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  point(x) {
    this.pointer = x;
    this.draw();
  }

  draw() {
    const { canvas, series } = this;
    const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const em = parseFloat(style.fontSize) * 0.75;
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    c.font = `${em}px ${style.fontFamily}`;

    const now = performance.now();
    const values = series.flatMap(({ of }) => samples.map((sample) => sample[of] ?? 0));
    const top = roundUp(Math.max(1, ...values), this.show === bytes ? 1024 : 1000);
    const [ceiling, floor] = [em * 1.4, height - em * 1.6];
    const x = (at) => width - ((now - at) / HISTORY) * width;
    const y = (value) => floor - (value / top) * (floor - ceiling);

    c.strokeStyle = colour("--line");
    c.lineWidth = 1;
    c.setLineDash([]);
    for (const value of [0, top / 2, top]) line(c, [[0, Math.round(y(value)) + 0.5], [width, Math.round(y(value)) + 0.5]]);
    c.fillStyle = colour("--muted");
    c.textBaseline = "alphabetic";
    c.textAlign = "left";
    c.fillText(this.show(top), 0, ceiling - em * 0.3);
    c.fillText("5 min ago", 0, height - em * 0.3);
    c.textAlign = "right";
    c.fillText("now", width, height - em * 0.3);

    series.forEach(({ of, colour: name, dash }, nth) => {
      c.strokeStyle = colour(name);
      c.lineWidth = 1.75;
      c.lineJoin = "round";
      c.setLineDash(dash ?? []);
      for (const run of runs(of)) {
        const points = run.map((sample) => [x(sample.at), y(sample[of])]);
        line(c, points);
        if (nth > 0) continue;
        c.globalAlpha = 0.12;
        c.fillStyle = colour(name);
        c.beginPath();
        c.moveTo(points[0][0], floor);
        points.forEach((point) => c.lineTo(...point));
        c.lineTo(points.at(-1)[0], floor);
        c.fill();
        c.globalAlpha = 1;
      }
    });
    if (this.pointer != null && samples.length) this.drawPointer(c, { x, width, ceiling, floor, em, colour });
  }

  drawPointer(c, { x, width, ceiling, floor, em, colour }) {
    const distance = (sample) => Math.abs(x(sample.at) - this.pointer);
    const nearest = samples.reduce((best, sample) => (distance(sample) < distance(best) ? sample : best));
    const at = x(nearest.at);
    c.setLineDash([]);
    c.lineWidth = 1;
    c.strokeStyle = colour("--muted");
    line(c, [[at, ceiling], [at, floor]]);
    const numbers = this.series.map(({ of }) => (nearest[of] == null ? "–" : this.show(nearest[of]))).join(" / ");
    const text = `${numbers}, ${time((performance.now() - nearest.at) / 1000)} ago`;
    c.fillStyle = colour("--text");
    c.textAlign = "right";
    c.fillText(text, width, ceiling - em * 0.3);
  }

  // For those who do not see it.
  summarize() {
    const parts = this.series.map(({ of, word }) => {
      const values = samples.map((sample) => sample[of]).filter((value) => value != null);
      if (!values.length) return `${word ?? ""} no history yet`.trim();
      const [now, least, most] = [values.at(-1), Math.min(...values), Math.max(...values)].map(this.show);
      return `${word ? `${word} ` : ""}now ${now}, lowest ${least}, highest ${most}`;
    });
    const minutes = samples.length ? Math.max(1, Math.round((performance.now() - samples[0].at) / 60_000)) : 0;
    this.canvas.setAttribute("aria-label", `${this.name}, last ${plural(minutes, "minute")}: ${parts.join("; ")}`);
  }
}

function line(c, points) {
  c.beginPath();
  points.forEach(([x, y], at) => (at ? c.lineTo(x, y) : c.moveTo(x, y)));
  c.stroke();
}

// Stretches of samples without a gap in time or in knowledge.
function runs(of) {
  const found = [];
  let last = -Infinity;
  for (const sample of samples) {
    if (sample[of] == null) continue;
    if (sample.at - last > GAP) found.push([]);
    found.at(-1).push(sample);
    last = sample.at;
  }
  return found;
}

// The next number that reads well, in units that are `base` times as large as the one before.
function roundUp(value, base) {
  const unit = base ** Math.floor(Math.log(value) / Math.log(base));
  const step = unit * 10 ** Math.floor(Math.log10(value / unit));
  return [1, 2, 4, 6, 8, 10].find((times) => value <= times * step) * step;
}

const first = { colour: "--accent" };
const plots = [
  new Plot("plot-sessions", "Live sessions", [{ of: "live", ...first }], short),
  new Plot("plot-lines", "Lines a second", [{ of: "lines", ...first }], perSecond),
  new Plot("plot-bytes", "Bytes a second", [{ of: "in", word: "in", ...first }, { of: "out", word: "out", colour: "--second", dash: [5, 3] }], bytes),
  new Plot("plot-refused", "Refused a second", [{ of: "refused", ...first }], perSecond),
];

// --- The server's numbers ---------------------------------------------------------------------------------------------

let last = null; // the last event
let summarized = -Infinity;

function show(event) {
  const before = isSame(event) ? last : null;
  last = event;
  const { server, stats } = event;
  const seconds = before ? server.uptime - before.server.uptime : 0;
  const rate = (of) => (seconds > 0 ? Math.max(0, of(stats) - of(before.stats)) / seconds : null);

  setText($("name"), server.name);
  setText($("version"), server.version);
  const { cluster } = event;
  setText($("uptime"), `up ${time(server.uptime)}${cluster ? `, node ${cluster.name}: ${cluster.health.state}` : ""}`);
  setText($("live"), stats.live);
  document.title = `${stats.live} · ${server.name}`;

  const sample = {
    at: performance.now(),
    live: stats.live,
    lines: rate((s) => s.lines_in),
    in: rate((s) => s.bytes_in),
    out: rate((s) => s.bytes_out),
    refused: rate((s) => sum(s.refused)),
  };
  samples.push(sample);
  while (samples[0].at < sample.at - HISTORY - SILENCE) samples.shift();

  setText($("opened-rate"), perSecond(rate((s) => s.opened)));
  setText($("closed-rate"), perSecond(rate((s) => sum(s.closed))));
  setHidden($("prefaces"), !stats.prefaces);
  setText($("prefaces"), `${count(stats.prefaces)} in handshakes`);
  setText($("lines-rate"), perSecond(sample.lines));
  setText($("lines-total"), short(stats.lines_in));
  setText($("bytes-in-rate"), bytes(sample.in));
  setText($("bytes-out-rate"), bytes(sample.out));
  setText($("bytes-in-total"), bytes(stats.bytes_in));
  setText($("bytes-out-total"), bytes(stats.bytes_out));
  setText($("refused-rate"), perSecond(sample.refused));
  setText($("refused-total"), count(sum(stats.refused)));

  showRefused(stats.refused, rate);
  showClosed(stats.closed);
  showListeners(event);
  showWorkers(stats.workers, before?.stats.workers, seconds);
  showLoad(stats);
  showState(event);
  for (const part of document.querySelectorAll("[data-control]")) setHidden(part, !event.control);
  setHidden($("drain"), !event.control || event.draining !== null);

  // What can be scrolled can be reached by keys.
  for (const box of document.querySelectorAll(".box")) {
    const isLong = box.scrollHeight > box.clientHeight;
    if (isLong !== (box.tabIndex === 0)) isLong ? (box.tabIndex = 0) : box.removeAttribute("tabindex");
  }

  plots.forEach((plot) => plot.draw());
  if (sample.at - summarized > 10_000 || samples.length === 2) {
    summarized = sample.at;
    plots.forEach((plot) => plot.summarize());
  }
}

// Counters of a server that was started anew begin at nothing.
function isSame({ server }) {
  return last?.server.started === server.started && last.server.uptime <= server.uptime;
}

function reasonCell(cell, reason) {
  cell.replaceChildren(element("span", reason, FAULTS.has(reason) ? "is-bad" : ""));
  if (REASONS[reason]) cell.append(element("span", REASONS[reason], "sub"));
}

const byCount = (counts) => Object.entries(counts ?? {}).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);

function showRefused(counts, rate) {
  const reasons = byCount(counts);
  setHidden($("refused-table"), !reasons.length);
  setHidden($("no-refused"), reasons.length > 0);
  const make = ([reason]) => {
    const row = rowOf("", "number", "number");
    reasonCell(row.cells[0], reason);
    return row;
  };
  fill($("refused"), reasons, ([reason]) => reason, make, (row, [reason, n]) => {
    setCells(row, null, perSecond(rate((stats) => stats.refused[reason] ?? 0)), count(n));
  });
}

function showClosed(counts) {
  const make = ([reason]) => {
    const pair = element("div");
    pair.append(element("dt", reason), element("dd"));
    return pair;
  };
  fill($("closed"), byCount(counts), ([reason]) => reason, make, (pair, [, n]) => setText(pair.lastChild, count(n)));
  showNoEnds();
}

function showListeners({ listeners, stats, control, draining }) {
  // While a drain is only announced, whoever comes is served.
  const isClosed = draining !== null && draining.begins_in === 0;
  setHidden($("no-listeners"), listeners.length > 0);
  const make = (listener) => {
    const row = rowOf("", "", "number", "act");
    row.cells[0].append(element("span", listener.id), element("span", listener.local_addr, "sub"));
    const button = element("button");
    button.type = "button";
    button.addEventListener("click", () => askPause(listener.id));
    row.cells[3].append(button);
    return row;
  };
  fill($("listeners"), listeners, (listener) => `${listener.id} ${listener.local_addr}`, make, (row, listener) => {
    const live = stats.listeners?.[listener.id]?.live ?? 0;
    const most = listener.max_sessions;
    setCells(row, null, isClosed ? "closed" : listener.is_paused ? "paused" : "accepting", most == null ? count(live) : `${count(live)} of ${count(most)}`);
    setClass(row.cells[1], listener.is_paused && !isClosed ? "is-warn" : "");
    setClass(row.cells[2], most != null && live >= most ? "number is-warn" : "number");
    const button = row.cells[3].firstChild;
    setText(button, listener.is_paused ? "Resume…" : "Pause…");
    button.setAttribute("aria-label", `${listener.is_paused ? "Resume" : "Pause"} listener ${listener.id}…`);
    setHidden(row.cells[3], !control || draining !== null);
  });
}

function showWorkers(workers, before, seconds) {
  setHidden($("workers-part"), !workers?.length);
  const make = () => {
    const row = rowOf("", "number", "number", "number", "number");
    row.cells[3].append(element("span"), element("span", null, "sub"));
    return row;
  };
  fill($("workers"), workers ?? [], ({ worker }) => worker, make, (row, worker) => {
    const was = before?.find((other) => other.worker === worker.worker);
    const busy = was && seconds > 0 ? (worker.turn_times.sum - was.turn_times.sum) / seconds : null;
    setCells(row, worker.worker, count(worker.live), busy == null ? "–" : `${Math.min(100, Math.round(busy * 100))} %`, null, count(worker.slow_turns));
    setText(row.cells[3].firstChild, time(worker.lag));
    setText(row.cells[3].lastChild, `most ${time(worker.max_lag)}`);
    setClass(row.cells[3].firstChild, worker.lag > 0.25 ? "is-warn" : "");
  });
}

function showLoad(stats) {
  const { memory } = stats;
  setHidden($("memory-part"), memory == null);
  if (memory != null) {
    const { budget } = memory;
    setText($("memory-text"), `${bytes(memory.bytes)} in buffers${budget == null ? ", no budget" : ` of ${bytes(budget)}`}`);
    setHidden($("memory"), budget == null);
    if (budget != null) $("memory").value = Math.min(1, memory.bytes / budget);
  }
  setText($("outbox"), bytes(stats.outbox_bytes));
  setText($("throttled"), count(stats.throttled));
  setText($("turns-cut"), count(stats.turns_cut));
  setText($("slow-turns"), stats.slow_turns ? `${count(stats.slow_turns)} (${time(stats.slow_turn_time)})` : "0");
  setText($("events-lost"), count(stats.events_lost));
}

function showState({ draining, listeners }) {
  const paused = listeners.length > 0 && listeners.every((listener) => listener.is_paused);
  if (draining) setState("draining", "Draining");
  else if (paused) setState("paused", "Paused: no listener accepts");
  else setState("running", "Running");
  setHidden($("draining"), !draining);
  if (!draining) return;
  const done = draining.ended + draining.cut;
  const cut = draining.cut ? `, ${count(draining.cut)} cut` : "";
  const left = plural(draining.left, "session");
  const announced = `It begins in ${time(draining.begins_in)}, with ${left}. Until then whoever comes is served.`;
  setText($("draining-text"), draining.begins_in > 0 ? announced : `${left} left, ${count(draining.ended)} ended${cut}, since ${time(draining.duration)}. New connections are not accepted.`);
  $("draining-progress").max = Math.max(1, done + draining.left);
  $("draining-progress").value = done;
}

function setState(state, text) {
  if ($("state").dataset.state === state) return;
  $("state").dataset.state = state;
  setText($("state-text"), text);
  say(`State: ${text}`);
}

// --- Ends -------------------------------------------------------------------------------------------------------------

let ends = [];

function showEnds() {
  showNoEnds();
  const make = (report) => {
    const row = rowOf("", "", "number", "number");
    row.cells[0].append(element("span", `#${report.id}`), element("span", report.peer, "sub"));
    if (report.ended) row.title = `Ended at ${new Date(report.ended * 1000).toLocaleString("en-GB")}`;
    reasonCell(row.cells[1], report.reason);
    if (report.cut) row.cells[1].append(element("span", "cut", "sub"));
    setCells(row, null, null, time(report.duration), count(report.lines_in));
    return row;
  };
  fill($("ends"), ends, (report) => report.id, make);
}

// Some may have ended before their reports were kept.
function showNoEnds() {
  setHidden($("no-ends"), ends.length > 0 || sum(last?.stats.closed ?? {}) > 0);
}

// Exactly one report comes for each session, so its number tells whether it is here already.
function addEnds(more) {
  const known = new Set(ends.map((report) => report.id));
  const fresh = more.filter((report) => !known.has(report.id));
  if (!fresh.length) return;
  ends = [...fresh, ...ends].slice(0, MOST_ENDS);
  showEnds();
}

// --- The connection ---------------------------------------------------------------------------------------------------

const connection = { source: null, attempt: 0, lostAt: null, why: "", hasEnded: false, silence: 0, again: 0 };

function connect() {
  clearTimeout(connection.again);
  connection.source?.close();
  const source = new EventSource("events");
  connection.source = source;
  // One that says nothing, not even that it fails, is lost as well.
  const listen = () => {
    clearTimeout(connection.silence);
    connection.silence = setTimeout(lose, SILENCE);
  };
  listen();
  source.addEventListener("server", (message) => {
    listen();
    const event = JSON.parse(message.data);
    if (connection.lostAt != null || connection.attempt === 0) found(event);
    show(event);
    addEnds(event.ends ?? []);
    sessions.refresh();
    refreshDetails();
  });
  // Events that did not come may have had ends.
  source.addEventListener("lost", () => loadEnds());
  source.addEventListener("end", () => {
    connection.hasEnded = true;
    lose();
  });
  // A browser tries again by itself after some errors and not after others: here it is always this page.
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) askWhy();
    lose();
  });
}

// A server that answers, but not with events, says why: too many watch already.
async function askWhy() {
  const abort = new AbortController();
  try {
    const answer = await fetch("events", { signal: abort.signal });
    if (!answer.ok) connection.why = JSON.parse(await answer.text()).error;
  } catch {
    connection.why = "";
  }
  abort.abort();
  showLost();
}

function found(event) {
  if (last && !isSame(event)) ends = [];
  Object.assign(connection, { lostAt: null, why: "", hasEnded: false, attempt: 1 });
  document.documentElement.classList.remove("is-lost");
  setHidden($("lost"), true);
  sessions.reload();
  loadEnds();
}

async function loadEnds() {
  try {
    const { ends: all } = await load("api/ends");
    const known = new Set(all.map((report) => report.id));
    const newer = ends.filter((report) => !known.has(report.id) && report.ended >= (all[0]?.ended ?? 0));
    ends = [...newer, ...all].slice(0, MOST_ENDS);
    showEnds();
  } catch {
    // The banner tells of a connection that is lost.
  }
}

function lose() {
  clearTimeout(connection.silence);
  clearTimeout(connection.again);
  connection.source?.close();
  if (connection.lostAt == null) {
    connection.lostAt = Date.now();
    connection.attempt = 1;
    connection.hasEnded ||= last?.draining != null;
    document.documentElement.classList.add("is-lost");
    setHidden($("draining"), true);
    setHidden($("lost"), false);
    setState("lost", "No connection");
    if (last) document.title = `No connection · ${last.server.name}`;
  }
  const wait = Math.min(10, 2 ** (connection.attempt - 1));
  connection.attempt += 1;
  connection.again = setTimeout(connect, wait * 1000);
  showLost();
}

function showLost() {
  if (connection.lostAt == null) return;
  const since = new Date(connection.lostAt).toLocaleTimeString("en-GB");
  const ago = time(Math.round((Date.now() - connection.lostAt) / 1000) || 1);
  const drained = connection.hasEnded ? " The server has drained, and may have ended." : "";
  const why = connection.why ? ` The server says: ${connection.why}.` : "";
  setText($("lost-text"), `Since ${since}, ${ago} ago.${drained}${why} The numbers below are from before. This page tries again by itself.`);
}

setInterval(showLost, 1000);
$("retry").addEventListener("click", connect);

// Loads JSON. An error has the server's own words and, where it is of a filter, the wrong word.
async function load(path, options) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  const text = await answer.text();
  let body = {};
  try {
    body = text ? JSON.parse(text) : {};
  } catch {
    body = { error: text.trim() };
  }
  if (!answer.ok) throw Object.assign(new Error(body.error || `the server answered ${answer.status}`), { status: answer.status });
  return body;
}

// --- Sessions: only rows in sight are in the document, and only they are asked for ---------------------------------------

const COLUMNS = [
  ["c-id", (s) => `#${s.id}`],
  ["c-peer", (s) => s.peer],
  ["c-listener", (s) => s.listener ?? "–"],
  ["c-worker number", (s) => s.worker],
  ["c-state", (s) => s.state],
  ["c-age number", (s) => time(s.age)],
  ["c-idle number", (s) => time(s.idle)],
  ["c-lines number", (s) => count(s.lines_in)],
  ["c-in number", (s) => bytes(s.bytes_in)],
  ["c-out number", (s) => bytes(s.bytes_out)],
  ["c-outbox number", (s) => bytes(s.outbox_bytes)],
];

const sessions = {
  words: "",
  sort: "id",
  total: 0,
  known: new Map(), // sessions by their place in the list
  active: -1, // the place of the row that keys move from
  pending: null, // { abort, from, to }
  askedAt: -Infinity,
  took: 0,
  isInSight: true,
  rows: [],

  start() {
    this.scroll = $("scroll");
    this.table = $("table");
    this.body = $("rows");
    this.above = this.gap();
    this.below = this.gap();
    this.body.append(this.above, this.below);
    this.restore();
    this.scroll.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.scroll);
    new IntersectionObserver(([entry]) => { this.isInSight = entry.isIntersecting; }).observe(this.scroll);
    this.table.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-place]");
      if (row) this.open(Number(row.dataset.place));
    });
    for (const button of this.table.querySelectorAll("[data-sort]")) {
      button.addEventListener("click", () => this.change(this.words, button.dataset.sort));
    }
    $("filter").addEventListener("submit", (event) => {
      event.preventDefault();
      this.change($("words").value, this.sort);
    });
    $("order").addEventListener("change", () => this.change(this.words, $("order").value));
    let typing = 0;
    $("words").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.change($("words").value, this.sort), 300);
    });
    addEventListener("hashchange", () => {
      this.restore();
      this.reload();
    });
  },

  gap() {
    const row = element("tr", null, "gap");
    row.setAttribute("aria-hidden", "true");
    // One cell: a table with fewer columns on a small screen would have room for them all.
    row.append(element("td"));
    return row;
  },

  // Filter and order stand behind the `#` of the address, to be kept and passed on.
  restore() {
    const from = new URLSearchParams(location.hash.startsWith("#q") || location.hash.startsWith("#sort") ? location.hash.slice(1) : "");
    this.words = from.get("q") ?? "";
    const sort = from.get("sort");
    this.sort = this.table.querySelector(`[data-sort="${CSS.escape(sort ?? "")}"]`) ? sort : "id";
    $("words").value = this.words;
    this.showSort();
  },

  change(words, sort) {
    words = words.trim();
    if (words === this.words && sort === this.sort) return;
    Object.assign(this, { words, sort, active: -1 });
    const to = new URLSearchParams();
    if (words) to.set("q", words);
    if (sort !== "id") to.set("sort", sort);
    history.replaceState(null, "", `#${to}`);
    this.showSort();
    this.scroll.scrollTop = 0;
    this.isNew = true;
    this.reload();
  },

  showSort() {
    $("order").value = this.sort;
    for (const button of this.table.querySelectorAll("[data-sort]")) {
      const direction = button.dataset.sort !== this.sort ? "none" : this.sort === "id" ? "ascending" : "descending";
      button.closest("th").setAttribute("aria-sort", direction);
    }
  },

  reload() {
    this.pending?.abort.abort();
    this.pending = null;
    this.ask();
  },

  // A long answer is asked for less often.
  refresh() {
    const pause = Math.max(REFRESH, 20 * this.took) - 200;
    if (!this.pending && !this.isWrong && this.isInSight && !document.hidden && performance.now() - this.askedAt > pause) this.ask();
  },

  places() {
    this.height = this.rows[0]?.getBoundingClientRect().height || this.height || parseFloat(getComputedStyle(document.documentElement).fontSize) * 1.75;
    const first = Math.floor(this.scroll.scrollTop / this.height) - OVERSCAN;
    const many = Math.ceil(this.scroll.clientHeight / this.height) + 2 * OVERSCAN;
    const from = Math.max(0, Math.min(first, this.shown() - many));
    return { from, to: from + many };
  },

  shown() {
    return Math.min(this.total, MOST_ROWS);
  },

  async ask() {
    const { from, to } = this.places();
    const asked = { abort: new AbortController(), from, to };
    this.pending = asked;
    const began = performance.now();
    const query = new URLSearchParams({ offset: from, limit: to - from, sort: this.sort, q: this.words });
    try {
      const page = await load(`api/sessions?${query}`, { signal: asked.abort.signal });
      if (this.pending !== asked) return;
      this.take(page, from, to);
    } catch (error) {
      if (this.pending !== asked) return;
      // Only what a filter says is for its field; the connection has its own banner.
      if (error.status >= 400 && error.status < 500) this.fail(error.message);
    }
    this.pending = null;
    this.askedAt = performance.now();
    this.took = this.askedAt - began;
    this.draw();
  },

  take({ sessions: found, total }, from, to) {
    this.fail("");
    if (this.isNew) this.known.clear();
    for (const place of this.known.keys()) {
      if (place >= total || place < from - 500 || place > to + 500) this.known.delete(place);
    }
    for (let place = from; place < to; place += 1) this.known.delete(place);
    found.forEach((session, at) => this.known.set(from + at, session));
    this.total = total;
    this.active = Math.min(this.active, this.shown() - 1);
    const most = total > MOST_ROWS ? `, the first ${count(MOST_ROWS)} listed: a filter finds others` : "";
    setText($("matching"), `${count(total)}${this.words ? ` ${total === 1 ? "fits" : "fit"} the filter` : ""}${most}`);
    setHidden($("no-sessions"), total > 0);
    setText($("no-sessions"), this.words ? "No session fits the filter." : "No session.");
    this.table.setAttribute("aria-rowcount", total + 1);
    if (this.isNew) say(`${plural(total, "session")} listed, by ${this.table.querySelector(`[data-sort="${this.sort}"]`).textContent.toLowerCase()}`);
    this.isNew = false;
  },

  fail(text) {
    this.isWrong = text !== "";
    setText($("words-error"), text);
    setHidden($("words-error"), !text);
    if (text) {
      $("words").setAttribute("aria-invalid", "true");
      say(`Filter: ${text}`);
    } else $("words").removeAttribute("aria-invalid");
  },

  draw() {
    const { from, to } = this.places();
    const end = Math.min(to, this.shown());
    const many = Math.max(0, end - from);
    while (this.rows.length > many) this.rows.pop().remove();
    while (this.rows.length < many) {
      const row = rowOf(...COLUMNS.map(([name]) => name));
      this.body.insertBefore(row, this.below);
      this.rows.push(row);
    }
    let complete = true;
    this.rows.forEach((row, at) => {
      const place = from + at;
      const session = this.known.get(place);
      complete &&= session != null;
      row.dataset.place = place;
      row.id = `row-${place}`;
      row.setAttribute("aria-rowindex", place + 2);
      row.setAttribute("aria-selected", place === this.active);
      setClass(row, session ? "" : "loading");
      COLUMNS.forEach(([, text], column) => setText(row.cells[column], session ? text(session) : column ? "" : "…"));
    });
    this.above.firstChild.style.height = `${from * this.height}px`;
    this.below.firstChild.style.height = `${Math.max(0, this.shown() - end) * this.height}px`;
    const isThere = this.active >= from && this.active < end;
    if (isThere) this.table.setAttribute("aria-activedescendant", `row-${this.active}`);
    else this.table.removeAttribute("aria-activedescendant");
    // What was asked for before the scroll went on is of no use any more.
    if (complete || !this.total) return;
    if (this.pending && (this.pending.to <= from || this.pending.from >= end)) this.reload();
    else if (!this.pending) this.ask();
  },

  key(event) {
    if (event.target !== this.table || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / this.height) - 2);
    const end = this.shown() - 1;
    const start = Math.max(this.active, -1);
    const moves = { ArrowDown: start + 1, ArrowUp: start - 1, PageDown: start + page, PageUp: start - page, Home: 0, End: end };
    if (event.key in moves) this.move(Math.max(0, Math.min(end, moves[event.key])));
    else if ((event.key === "Enter" || event.key === " ") && this.active >= 0) this.open(this.active);
    else return;
    event.preventDefault();
  },

  move(place) {
    this.active = place;
    const head = this.table.tHead.getBoundingClientRect().height;
    const [top, seen] = [place * this.height, this.scroll.clientHeight - head];
    if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
    else if (top + this.height > this.scroll.scrollTop + seen) this.scroll.scrollTop = top + this.height - seen;
    this.draw();
  },

  open(place) {
    const session = this.known.get(place);
    if (!session) return;
    this.active = place;
    this.draw();
    openDetails(session);
  },
};

// --- One session ------------------------------------------------------------------------------------------------------

const details = { id: null, isAsking: false };

function openDetails(session) {
  details.id = session.id;
  setText($("session-note"), "");
  setText($("session-title"), `Session #${session.id}`);
  $("session-kick").disabled = false;
  showDetails(session);
  $("session").showModal();
}

function showDetails(s) {
  const facts = [
    ["Peer", s.peer], ["Listener", s.listener ?? "none"], ["Worker", s.worker], ["State", s.state], ["Age", time(s.age)],
    ["Without a line for", time(s.idle)], ["Lines", count(s.lines_in)], ["Bytes in", count(s.bytes_in)],
    ["Bytes out", count(s.bytes_out)], ["Output that waits", `${count(s.outbox_bytes)} B`], ["Name", s.name ?? "none"], ["Tags", s.tags?.join(", ") ?? "none"],
  ];
  const list = $("session-facts");
  while (list.children.length < facts.length) {
    const pair = element("div");
    pair.append(element("dt"), element("dd"));
    list.append(pair);
  }
  facts.forEach(([name, value], at) => {
    setText(list.children[at].firstChild, name);
    setText(list.children[at].lastChild, value);
  });
}

async function refreshDetails() {
  if (!$("session").open || details.isAsking) return;
  const { id } = details;
  details.isAsking = true;
  try {
    const { sessions: [session] } = await load(`api/sessions?${new URLSearchParams({ q: `#${id}`, limit: 1 })}`);
    if (id !== details.id) return;
    if (session) showDetails(session);
    else {
      const report = ends.find((end) => end.id === id);
      setText($("session-note"), report ? `This session has ended: ${report.reason}.` : "This session has ended.");
      $("session-kick").disabled = true;
    }
  } catch {
    // The banner tells of a connection that is lost.
  } finally {
    details.isAsking = false;
  }
}

$("session-close").addEventListener("click", () => $("session").close());
$("session-kick").addEventListener("click", () => {
  $("session").close();
  askKick(details.id);
});

// --- Control ----------------------------------------------------------------------------------------------------------

let token = ""; // in the memory of this page, and nowhere else
let action = null;

// Says what will happen, and does it once that is confirmed.
function ask({ title, text, go, option, goodbye, path, body, done }) {
  action = { path, body, done };
  setText($("confirm-title"), title);
  setText($("confirm-text"), text);
  setText($("confirm-go"), go);
  setText($("confirm-error"), "");
  setHidden($("option-part"), !option);
  setText($("option-label"), option?.label ?? "");
  $("option").value = option?.value ?? "";
  setHidden($("goodbye-part"), !goodbye);
  $("goodbye").value = "";
  setHidden($("token-part"), token !== "");
  $("token").value = "";
  $("confirm-go").disabled = false;
  $("confirm").showModal();
  (option ? $("option") : token === "" ? $("token") : $("confirm-cancel")).focus();
}

function askKick(id) {
  ask({
    title: `Kick session #${id}`,
    text: "It reads no more, answers what it has read, says the goodbye if there is one, and closes. Its peer may connect again.",
    go: `Kick #${id}`,
    option: { label: "Goodbye, empty for none" },
    path: "api/kick",
    body: (goodbye) => ({ q: `#${id}`, goodbye }),
    done: `Session #${id} was told to end`,
  });
}

function askPause(id) {
  const listener = last.listeners.find((one) => one.id === id);
  if (!listener) return;
  const paused = !listener.is_paused;
  ask({
    title: `${paused ? "Pause" : "Resume"} listener ${id}`,
    text: paused
      ? `New connections to ${listener.local_addr} wait in the kernel's backlog until it is resumed; once that is full, they fail. Live sessions go on.`
      : `New connections to ${listener.local_addr} are accepted again, first those that wait.`,
    go: paused ? "Pause" : "Resume",
    path: "api/pause",
    body: () => ({ listener: id, paused }),
    done: `Listener ${id} was ${paused ? "paused" : "resumed"}`,
  });
}

function askDrain() {
  ask({
    title: `Drain ${last.server.name}`,
    text: `It accepts no more connections. ${plural(last.stats.live, "live session")} read no more, are answered what was read, and close; those left at the end of the time are cut. It ends when all are gone. This cannot be undone.`,
    go: "Drain",
    option: { label: "Time for sessions to end, in seconds; empty for the server's own" },
    goodbye: true,
    path: "api/drain",
    body: (seconds, goodbye) => {
      const said = goodbye.trim() === "" ? {} : { goodbye };
      if (seconds.trim() === "") return said;
      const timeout = Number(seconds);
      if (!(timeout >= 0)) throw new Error("Say the time as a number of seconds, as 10.");
      return { timeout, ...said };
    },
    done: "The drain has begun",
  });
}

$("drain").addEventListener("click", askDrain);
$("confirm-cancel").addEventListener("click", () => $("confirm").close());
$("confirm-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { path, body, done } = action;
  const used = token || $("token").value.trim();
  setText($("confirm-error"), "");
  if (!used) {
    setText($("confirm-error"), "Type the token; whoever runs the server has it.");
    $("token").focus();
    return;
  }
  $("confirm-go").disabled = true;
  try {
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${used}` };
    await load(path, { method: "POST", headers, body: JSON.stringify(body($("option").value, $("goodbye").value)) });
    token = used;
    $("confirm").close();
    say(done);
    sessions.reload();
  } catch (error) {
    setText($("confirm-error"), error.message);
    if (error.status === 401 || error.status === 403) {
      token = "";
      setHidden($("token-part"), false);
      $("token").focus();
    } else if (error.status) token = used;
  } finally {
    $("confirm-go").disabled = false;
  }
});

// --- Start ------------------------------------------------------------------------------------------------------------

for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
  matchMedia(query).addEventListener("change", () => plots.forEach((plot) => plot.draw()));
}
sessions.start();
connect();
