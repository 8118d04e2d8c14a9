//! Scripts: the two steps of storing an entry that Redis executes atomically, taking the lease and
//! storing the entry (the fill).
//!
//! A lease is the right to store one entry. It is stored in the same hash as its entry, so that
//! removing the hash removes both. Its value is a token of 16 bytes and the time at which the lease
//! ends, by the clock of Redis.
//!
//! **Invariant:** an entry is stored only by the holder of a lease that was granted before its rows
//! were read.
//! **Not here:** running the scripts (`client`), the encoding of an entry (`entry`).

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, Script, Value};

use super::cache_key::Name;
use super::proof::CurrentSince;

/// Duration of a lease.
pub(super) const LEASE: Duration = Duration::from_secs(2);
/// Maximum number of fields of one hash, which are the entries and the leases of one key. A new
/// lease beyond it first removes the whole hash.
const FIELDS_MAX: usize = 32;

/// Returns the stored entry or grants a lease. The lease is granted if there is no entry, if the
/// entry is too old, or if its tag is the one that the reader has already found insufficient; it is
/// refused while another reader holds it. The offsets are positions in the entry's trailer. The
/// script checks only the age of an entry; the calling function checks the rest. A stored lease
/// that ends later than one granted now is invalid: the clock was set back, or another program
/// wrote the lease.
static ACQUIRE: LazyLock<Text> = LazyLock::new(|| {
    Text::new(
        r"
local key, field, token, lease, known, fields = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local process, oldest_own, oldest_wall = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local kind = redis.call('TYPE', key)['ok']
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end
local entry = redis.call('HGET', key, field)
if entry and string.sub(entry, -16) ~= known then
  if #entry < 61 then return entry end
  local own_high, own_low, wall_high, wall_low = struct.unpack('>I4I4I4I4', string.sub(entry, -53, -38))
  local own, wall = own_high * 4294967296 + own_low, wall_high * 4294967296 + wall_low
  if string.sub(entry, -61, -54) == process then
    if own >= oldest_own then return entry end
  elseif wall >= oldest_wall then
    return entry
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HGET', key, 'L' .. field)
local ends = held and tonumber(string.sub(held, 17))
if ends and ends > now and ends <= now + lease then return 0 end
if redis.call('HLEN', key) >= fields then redis.call('DEL', key) end
redis.call('HSET', key, 'L' .. field, token .. string.format('%.0f', now + lease))
if redis.call('PTTL', key) < lease then redis.call('PEXPIRE', key, lease) end
return 1
",
    )
});

/// Stores an entry if its lease is still held, unless the entry that is already stored belongs to
/// the same timeline, has a higher `min_position` and is not older. The offsets are positions in
/// the entry's trailer.
static FILL: LazyLock<Text> = LazyLock::new(|| {
    Text::new(
        r"
local key, field, token, entry, ttl = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local held = redis.call('HGET', key, 'L' .. field)
if not held or string.sub(held, 1, 16) ~= token then return 0 end
redis.call('HDEL', key, 'L' .. field)
local there = redis.call('HGET', key, field)
if there and #there >= 45 then
  local function facts(bytes) return struct.unpack('>I4I4I4I4I4', string.sub(bytes, -45, -26)) end
  local function less(high, low, than_high, than_low) return high < than_high or (high == than_high and low < than_low) end
  local at_high, at_low, timeline, high, low = facts(entry)
  local its_at_high, its_at_low, its_timeline, its_high, its_low = facts(there)
  if timeline == its_timeline and less(high, low, its_high, its_low) and not less(its_at_high, its_at_low, at_high, at_low) then
    return 0
  end
end
redis.call('HSET', key, field, entry)
redis.call('PEXPIRE', key, ttl)
return 1
",
    )
});

/// Right to store an entry, identified by a random token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease(pub(super) [u8; 16]);

/// Response of Redis to a request for a lease.
#[derive(Debug)]
pub(super) enum Leased {
    /// The lease is granted.
    Granted(Lease),
    /// Another reader has the lease.
    Refused,
    /// An entry is already stored, and the script has not found it too old. These are its bytes.
    Filled(Vec<u8>),
}

/// Source text of a script, and the digest by which Redis calls it.
struct Text {
    code: &'static str,
    digest: String,
}

impl Text {
    fn new(code: &'static str) -> Self {
        Self { code, digest: Script::new(code).get_hash().to_owned() }
    }
}

/// Command that runs a script, with the source text to load if Redis does not have the script yet.
pub(super) struct RedisStep {
    pub(super) cmd: Cmd,
    code: &'static str,
}

impl RedisStep {
    fn new(script: &'static Text, name: &Name) -> Self {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&script.digest).arg(1).arg(&name.key).arg(&name.field);
        Self { cmd, code: script.code }
    }

    /// Returns the command that loads the script into Redis.
    pub(super) fn load(&self) -> Cmd {
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(self.code);
        cmd
    }

    /// Creates the command that requests a lease. Redis does not return an entry with the tag
    /// `known` or one older than `oldest`, but grants the lease instead.
    pub(super) fn acquire(
        name: &Name,
        lease: Lease,
        known: Option<[u8; 16]>,
        oldest: &CurrentSince,
    ) -> Self {
        let mut step = Self::new(&ACQUIRE, name);
        let known: &[u8] = known.as_ref().map_or(&[], |known| known);
        step.cmd.arg(&lease.0).arg(LEASE.as_millis() as u64).arg(known).arg(FIELDS_MAX);
        step.cmd.arg(&oldest.process.to_be_bytes()).arg(oldest.own).arg(oldest.wall);
        step
    }

    /// Creates the command that stores an entry unconditionally. It violates the guarantees on
    /// purpose, for a test that must detect this.
    pub(super) fn set(name: &Name, entry: &[u8]) -> Cmd {
        let mut cmd = redis::cmd("HSET");
        cmd.arg(&name.key).arg(&name.field).arg(entry);
        cmd
    }

    /// Creates the command that stores an entry if this lease is still held.
    pub(super) fn fill(name: &Name, lease: Lease, entry: &[u8], ttl: Duration) -> Self {
        let mut step = Self::new(&FILL, name);
        step.cmd.arg(&lease.0).arg(entry).arg(ttl.as_millis() as u64);
        step
    }
}

/// Reads the response to a request for a lease.
pub(super) fn leased(answer: Value, lease: Lease) -> Option<Leased> {
    if let Value::BulkString(entry) = answer {
        return Some(Leased::Filled(entry));
    }
    match redis::from_redis_value::<i64>(answer) {
        Ok(1) => Some(Leased::Granted(lease)),
        Ok(0) => Some(Leased::Refused),
        Ok(_) | Err(_) => None,
    }
}
