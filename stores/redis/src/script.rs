//! What the server does in one step: scripts, each with its keys and arguments.
//!
//! Who writes has an epoch, which each opening counts up. Whatever could harm another writer is refused where the epoch is
//! not that of the server any more: a request of before may arrive late.

use bytes::Bytes;

use crate::connection::Command;

/// Begins an epoch: its number, or who else writes there.
const OPEN: &str = "\
local writer = redis.call('HMGET', KEYS[1], 'id', 'ended', 'host')
if writer[1] and writer[1] ~= ARGV[1] and writer[2] ~= '1' and ARGV[3] ~= '1' then return {writer[1], writer[3] or ''} end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'host', ARGV[2], 'ended', '0')
return epoch";

/// Says that the writer has ended.
const CLOSE: &str = "\
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return -1 end
redis.call('HSET', KEYS[1], 'ended', '1')
return 1";

/// Removes a block.
const DELETE: &str = "\
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return -1 end
return redis.call('UNLINK', KEYS[2])";

/// Sets a head where its version is the expected one. Repeated it finds that it has been done.
const SWAP: &str = "\
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return -1 end
local head = redis.call('GET', KEYS[2])
local version = head and string.sub(head, 1, 16) or ''
if version == ARGV[3] then return 1 end
if version ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[2], ARGV[4])
return 1";

fn eval(script: &'static str, keys: &[&Bytes], arguments: &[Bytes]) -> Command {
    let front = [Bytes::from_static(b"EVAL"), script.into(), keys.len().to_string().into()];
    front.into_iter().chain(keys.iter().map(|key| (*key).clone())).chain(arguments.iter().cloned()).collect()
}

pub(crate) fn open(writer: &Bytes, id: &str, host: &str, by_force: bool) -> Command {
    let by_force = if by_force { "1" } else { "0" };
    let [id, host] = [id, host].map(|text| Bytes::copy_from_slice(text.as_bytes()));
    eval(OPEN, &[writer], &[id, host, by_force.into()])
}

pub(crate) fn close(writer: &Bytes, epoch: i64) -> Command {
    eval(CLOSE, &[writer], &[epoch.to_string().into()])
}

pub(crate) fn delete(writer: &Bytes, epoch: i64, block: &Bytes) -> Command {
    eval(DELETE, &[writer, block], &[epoch.to_string().into()])
}

/// `head` begins with the new version.
pub(crate) fn swap(writer: &Bytes, epoch: i64, name: &Bytes, expected: Bytes, new: Bytes, head: Bytes) -> Command {
    eval(SWAP, &[writer, name], &[epoch.to_string().into(), expected, new, head])
}
