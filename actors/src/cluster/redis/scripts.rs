//! Scripts: each call to the store that is more than one command, so that it happens as a whole.
//!
//! They take the time from the store alone, so that nodes need no common clock. `#!lua` has a server refuse a script that writes
//! before it begins, where it could not finish: out of memory, on a replica, without enough replicas.
//! Keys, all behind the prefix: `leases` (nodes by the end of their leases, in ms of the store's clock); of each node `node:ID`
//! (what it says of itself, the number of its last call, whether rows are missing), `rows:ID` (a session and its JSON), `names:ID` (name, NUL, session),
//! `held:ID` (a resource and its count), and `begins:ID:CALL`, which becomes that of a life with many when it begins; `rate:RESOURCE` (what is missing from a full bucket, in millionths of a token, and since when in µs).
//! Not here: who calls them (`redis`), what their answers mean (`answer`).

use std::sync::LazyLock;

use redis::Script;

/// A program of the store.
pub(super) struct Program {
    pub(super) text: String,
    pub(super) hash: String,
}

impl Program {
    fn new(flags: &str, parts: &[&str]) -> Self {
        let text = format!("#!lua{flags}\n{}", parts.concat());
        let hash = Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }

    fn writing(parts: &[&str]) -> Self {
        Self::new("", parts)
    }

    /// Runs where nothing can be written, too.
    fn reading(parts: &[&str]) -> Self {
        Self::new(" flags=no-writes", parts)
    }
}

/// Writes some shares of a life that has not begun, where no sum looks: the number of those that are there then, or -1 if those before
/// are not.
pub(super) static STAGE: LazyLock<Program> = LazyLock::new(|| Program::writing(&[CLOCK, STAGE_TEXT]));
/// Begins or renews a lease; writes and removes rows. 1, or 0 if the lease is over; 2 if shares that were to be there are not.
pub(super) static REGISTER: LazyLock<Program> =
    LazyLock::new(|| Program::writing(&[CLOCK, NODE, EXPIRE, WORDS, REGISTER_TEXT]));
/// Ends a lease and removes what is beneath it.
pub(super) static UNREGISTER: LazyLock<Program> = LazyLock::new(|| Program::writing(&[CLOCK, NODE, UNREGISTER_TEXT]));
/// Lists nodes: id, about, number of rows, milliseconds left, one after the other. What is of another kind than ours is 0 for a text
/// and -1 for a number.
pub(super) static NODES: LazyLock<Program> = LazyLock::new(|| Program::reading(&[CLOCK, NODES_TEXT]));
/// Lists some rows of a node: the next cursor, then sessions and rows, then 1 if not all of them are there yet.
pub(super) static LIST: LazyLock<Program> = LazyLock::new(|| Program::reading(&[CLOCK, NODE, LIST_TEXT]));
/// Finds rows by name: ids of nodes and rows, then the ids of nodes of which not all rows are there yet.
pub(super) static LOOKUP: LazyLock<Program> = LazyLock::new(|| Program::reading(&[CLOCK, LOOKUP_TEXT]));
/// Sets counts and takes shares: 0, the number of entries that are none of ours, and a verdict for each want; 1 if the lease is
/// over; 2 if it comes late.
pub(super) static ACQUIRE: LazyLock<Program> =
    LazyLock::new(|| Program::writing(&[CLOCK, NODE, EXPIRE, WORDS, ACQUIRE_TEXT]));

/// The one place that asks for the time: a test feeds other clocks.
const CLOCK: &str = "
local leases, P = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = math.floor(micros / 1000)
local function whole(number) return string.format('%.0f', number) end
local function live() return redis.call('ZRANGEBYSCORE', leases, '(' .. whole(now), '+inf') end
-- Other programs and later versions write other texts; 18 digits are within what commands count with.
local function natural(text)
  return type(text) == 'string' and #text <= 18 and string.match(text, '^%d+$') and tonumber(text) or nil
end
";

const NODE: &str = "
local id = ARGV[2]
local node, rows, names, held = P .. 'node:' .. id, P .. 'rows:' .. id, P .. 'names:' .. id, P .. 'held:' .. id
local ends = tonumber(redis.call('ZSCORE', leases, id) or 0)
local is_live = ends > now
";

/// Nothing of a node outlives its lease for long, also if nobody comes to remove it.
const EXPIRE: &str = "
local function expire(key) redis.call('PEXPIREAT', key, whole(ends + 1000)) end
";

/// Takes the words behind the prefix and the node, one after the other.
const WORDS: &str = "
local at = 2
local function take()
  at = at + 1
  return ARGV[at]
end
";

/// The key is one call's alone: one that comes late, or whose sender has died, is nothing to any other, and ends by itself.
const STAGE_TEXT: &str = r"
local staged = P .. ARGV[2]
if redis.call('HLEN', staged) ~= tonumber(ARGV[3]) then return -1 end
redis.call('HSET', staged, unpack(ARGV, 5))
redis.call('PEXPIREAT', staged, whole(math.min(now + tonumber(ARGV[4]) + 1000, 1e15)))
return redis.call('HLEN', staged)
";

const REGISTER_TEXT: &str = r#"
local lease, begins, about, partial = tonumber(take()), take() == '1', take(), take()
local staged, there = take(), tonumber(take())
if not (begins or is_live) then return 0 end
-- A server that has started anew meanwhile, or is another one, may lack some.
if staged ~= '' and redis.call('HLEN', P .. staged) ~= there then return 2 end
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', whole(now), 'LIMIT', 0, 16)) do
  redis.call('UNLINK', P .. 'node:' .. dead, P .. 'rows:' .. dead, P .. 'names:' .. dead, P .. 'held:' .. dead)
  redis.call('ZREM', leases, dead)
end
-- The clock may have jumped back: a lease that ends later than it could be renewed to now is cut to that.
local far = redis.call('ZRANGEBYSCORE', leases, '(' .. whole(now + lease), '+inf', 'WITHSCORES', 'LIMIT', 0, 16)
for place = 1, #far, 2 do
  local most = now + (natural(redis.pcall('HGET', P .. 'node:' .. far[place], 'lease')) or lease)
  if tonumber(far[place + 1]) > most then redis.call('ZADD', leases, whole(most), far[place]) end
end
if begins then
  -- At first, since a user may lack the permission.
  if staged ~= '' then redis.call('RENAME', P .. staged, held) else redis.call('UNLINK', held) end
  redis.call('UNLINK', node, rows, names)
  redis.call('HSET', node, 'about', about, 'serial', 0, 'lease', whole(lease))
end
if partial == '1' then redis.call('HSET', node, 'partial', 1) elseif partial == '0' then redis.call('HDEL', node, 'partial') end
local shares = tonumber(take())
if shares > 0 then
  redis.call('HSET', held, unpack(ARGV, at + 1, at + 2 * shares))
  at = at + 2 * shares
end
local function forget_name(session)
  local old = redis.call('HGET', rows, session)
  if old and string.find(old, '"n":"', 1, true) then
    local is_row, row = pcall(cjson.decode, old)
    if is_row and type(row) == 'table' and type(row.n) == 'string' then
      redis.call('ZREM', names, row.n .. '\000' .. session)
    end
  end
end
for _ = 1, tonumber(take()) do
  local session, name, row = take(), take(), take()
  if not begins then forget_name(session) end
  redis.call('HSET', rows, session, row)
  if name ~= '' then redis.call('ZADD', names, 0, string.sub(name, 2) .. '\000' .. session) end
end
for _ = 1, tonumber(take()) do
  local session = take()
  forget_name(session)
  redis.call('HDEL', rows, session)
end
ends = now + lease
redis.call('ZADD', leases, whole(ends), id)
for _, key in ipairs({node, rows, names, held}) do expire(key) end
local last = redis.call('ZRANGE', leases, -1, -1, 'WITHSCORES')
-- No key can end after this.
ends = math.min(tonumber(last[2]), 1e15)
expire(leases)
return 1
"#;

const UNREGISTER_TEXT: &str = r"
redis.call('UNLINK', node, rows, names, held)
return redis.call('ZREM', leases, id)
";

const NODES_TEXT: &str = r"
local found = {}
local function of_our_kind(answer, otherwise)
  if type(answer) ~= 'table' then return answer end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then error(answer) end
  return otherwise
end
local all = redis.call('ZRANGEBYSCORE', leases, '(' .. whole(now), '+inf', 'WITHSCORES')
for place = 1, #all, 2 do
  local id = all[place]
  table.insert(found, id)
  table.insert(found, of_our_kind(redis.pcall('HGET', P .. 'node:' .. id, 'about'), 0) or '')
  table.insert(found, of_our_kind(redis.pcall('HLEN', P .. 'rows:' .. id), -1))
  table.insert(found, math.min(tonumber(all[place + 1]) - now, 1e15))
end
return found
";

const LIST_TEXT: &str = r"
if not is_live then return {'0', {}, 0} end
local page = redis.call('HSCAN', rows, ARGV[3], 'COUNT', ARGV[4])
page[3] = redis.pcall('HGET', node, 'partial') == '1' and 1 or 0
return page
";

const LOOKUP_TEXT: &str = r"
local name, found, partial = ARGV[2], {}, {}
for _, id in ipairs(live()) do
  if redis.pcall('HGET', P .. 'node:' .. id, 'partial') == '1' then table.insert(partial, id) end
  for _, member in ipairs(redis.call('ZRANGEBYLEX', P .. 'names:' .. id, '[' .. name .. '\000', '(' .. name .. '\001')) do
    -- A longer name with a NUL in it begins the same.
    local session = string.match(string.sub(member, #name + 2), '^%d+$')
    local row = session and redis.call('HGET', P .. 'rows:' .. id, session)
    if row then
      table.insert(found, id)
      table.insert(found, row)
    end
  end
end
return {found, partial}
";

/// What is no count, no rate or no serial number is none of ours: a count is 0 then, a bucket full, and the life over, since the
/// next one begins with numbers of its own.
///
/// A bucket is full without a key. What is missing from it comes back by so many millionths of a token each µs as there are
/// tokens each second: whole numbers, all below 2^53, so nothing is rounded.
const ACQUIRE_TEXT: &str = r"
if not is_live then return {1} end
local done = natural(redis.call('HGET', node, 'serial') or '0')
if not done then return {1, 1} end
local serial = take()
if tonumber(serial) <= done then return {2} end
redis.call('HSET', node, 'serial', serial)
expire(node)
for _ = 1, tonumber(take()) do
  local resource, count = take(), take()
  if count == '0' then redis.call('HDEL', held, resource) else redis.call('HSET', held, resource, count) end
end
local nodes, sums, missing, unknown = nil, {}, {}, 0
local function sum(resource)
  if not sums[resource] then
    nodes = nodes or live()
    local all = 0
    for _, other in ipairs(nodes) do
      local text = redis.call('HGET', P .. 'held:' .. other, resource)
      local count = natural(text or '0')
      if not count then
        unknown = unknown + 1
        -- It is counted up below.
        if other == id then redis.call('HDEL', held, resource) end
      end
      all = all + (count or 0)
    end
    sums[resource] = all
  end
  return sums[resource]
end
local function put(resource, tokens, per_second)
  local key = P .. 'rate:' .. resource
  if tokens > 0 then
    redis.call('SET', key, whole(tokens) .. ' ' .. whole(micros), 'PX', whole(math.ceil(tokens / per_second / 1000) + 1))
  else
    redis.call('DEL', key)
  end
  missing[resource] = tokens
end
local function lacks(resource, per_second)
  if not missing[resource] then
    local text = redis.call('GET', P .. 'rate:' .. resource)
    local tokens, since = string.match(text or '', '^(%d+) (%d+)$')
    tokens, since = natural(tokens), natural(since)
    if text and not (tokens and since) then unknown = unknown + 1 end
    if tokens and since then
      if since > micros then
        -- The clock was set back: time runs from here.
        put(resource, tokens, per_second)
      end
      missing[resource] = math.max(0, tokens - math.max(0, micros - since) * per_second)
    else
      missing[resource] = 0
    end
  end
  return missing[resource]
end
local verdicts = {0, 0}
for _ = 1, tonumber(take()) do
  local counts, rates, verdict = {}, {}, 0
  for place = 1, tonumber(take()) do
    counts[place] = take()
    local most = tonumber(take())
    if verdict == 0 and sum(counts[place]) >= most then verdict = place end
  end
  for place = 1, tonumber(take()) do
    local rate = {take(), tonumber(take()), tonumber(take())}
    rates[place] = rate
    if verdict == 0 and lacks(rate[1], rate[2]) + 1000000 > rate[3] * 1000000 then verdict = -place end
  end
  if verdict == 0 then
    for _, resource in ipairs(counts) do
      redis.call('HINCRBY', held, resource, 1)
      sums[resource] = sums[resource] + 1
    end
    for _, rate in ipairs(rates) do put(rate[1], lacks(rate[1], rate[2]) + 1000000, rate[2]) end
  end
  table.insert(verdicts, verdict)
end
expire(held)
verdicts[2] = unknown
return verdicts
";
