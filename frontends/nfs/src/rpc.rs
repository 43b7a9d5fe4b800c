//! ONC RPC version 2: the header of a call, its credentials, and the shapes of a reply.
//!
//! Spec: RFC 5531 (and RFC 1057, which it replaces).

use bytes::Bytes;
use nfs3_types::{
    rpc::{RPC_VERSION_2, accept_stat, auth_flavor, auth_stat, msg_type, reject_stat, reply_stat},
    xdr_codec::Pack,
};
use tokio::sync::OwnedSemaphorePermit;

use crate::xdr::{Decoder, Malformed, padding};

/// The longest credential or verifier: RFC 5531 section 8.2.
const AUTH_LEN_MAX: usize = 400;
/// The longest machine name in `AUTH_UNIX` credentials: RFC 5531 appendix A.
const MACHINE_NAME_LEN_MAX: usize = 255;
/// How many further groups `AUTH_UNIX` credentials may name: RFC 5531 appendix A.
pub const GROUP_COUNT_MAX: usize = 16;
/// The length of a record mark, to be filled in once the reply is whole.
const MARK_LEN: usize = 4;
/// Where the results begin: mark, xid, REPLY, `MSG_ACCEPTED`, a verifier of `AUTH_NONE` and the status.
pub(crate) const RESULT_AT: usize = MARK_LEN + 24;

/// A call, decoded up to its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) xid: u32,
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) procedure: u32,
    pub(crate) flavor: u32,
    /// The credentials as they came: equal bytes are the same caller.
    pub(crate) credentials: Bytes,
    pub(crate) args: Decoder,
}

/// Why there is no call.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Not an RPC call at all: the connection is of no use.
    NotACall,
    /// A call that RPC itself answers.
    Answered(Reply),
}

impl Call {
    /// Decodes a record.
    pub(crate) fn parse(record: Bytes) -> Result<Self, Refused> {
        let mut from = Decoder::new(record);
        let (Ok(xid), Ok(kind), Ok(rpc_version)) = (from.u32(), from.u32(), from.u32()) else {
            return Err(Refused::NotACall);
        };
        if kind != msg_type::CALL as u32 {
            return Err(Refused::NotACall);
        }
        if rpc_version != RPC_VERSION_2 {
            return Err(Refused::Answered(Reply::rpc_mismatch(xid)));
        }
        let (Ok(program), Ok(version), Ok(procedure)) = (from.u32(), from.u32(), from.u32()) else {
            return Err(Refused::NotACall);
        };
        let mut auth = |stat| match (from.u32(), from.opaque(AUTH_LEN_MAX)) {
            (Ok(flavor), Ok(body)) => Ok((flavor, body)),
            _ => Err(Refused::Answered(Reply::auth_error(xid, stat))),
        };
        let (flavor, credentials) = auth(auth_stat::AUTH_BADCRED)?;
        auth(auth_stat::AUTH_BADVERF)?;
        Ok(Self { xid, program, version, procedure, flavor, credentials, args: from })
    }
}

/// Who calls, as the client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claimed {
    Nobody,
    Unix { uid: u32, gid: u32, groups: Vec<u32> },
}

/// Decodes credentials. `AUTH_NONE` and `AUTH_UNIX` are understood.
pub(crate) fn claimed(flavor: u32, credentials: Bytes) -> Result<Claimed, auth_stat> {
    if flavor == auth_flavor::AUTH_NULL as u32 {
        return Ok(Claimed::Nobody);
    }
    if flavor != auth_flavor::AUTH_UNIX as u32 {
        return Err(auth_stat::AUTH_REJECTEDCRED);
    }
    auth_unix(Decoder::new(credentials)).map_err(|Malformed| auth_stat::AUTH_BADCRED)
}

fn auth_unix(mut from: Decoder) -> Result<Claimed, Malformed> {
    let _stamp = from.u32()?;
    from.opaque(MACHINE_NAME_LEN_MAX)?;
    let (uid, gid) = (from.u32()?, from.u32()?);
    let count = usize::try_from(from.u32()?).map_err(|_| Malformed)?;
    if count > GROUP_COUNT_MAX {
        return Err(Malformed);
    }
    let groups = (0..count).map(|_| from.u32()).collect::<Result<_, _>>()?;
    Ok(Claimed::Unix { uid, gid, groups })
}

/// One reply with its record mark: a head, and perhaps a payload that is sent from where it lies.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    head: Vec<u8>,
    payload: Bytes,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reply {
    fn begin(xid: u32, stat: reply_stat) -> Self {
        let mut reply = Self { head: Vec::with_capacity(192), ..Self::default() };
        reply.put(&0u32).put(&xid).put(&msg_type::REPLY).put(&stat);
        reply
    }

    /// Begins a reply that was accepted and succeeded; its results follow.
    pub(crate) fn accepted(xid: u32) -> Self {
        Self::refused(xid, accept_stat::SUCCESS)
    }

    /// A reply without results: `PROG_UNAVAIL`, `PROC_UNAVAIL`, `GARBAGE_ARGS` or `SYSTEM_ERR`.
    pub(crate) fn refused(xid: u32, stat: accept_stat) -> Self {
        let mut reply = Self::begin(xid, reply_stat::MSG_ACCEPTED);
        reply.put(&auth_flavor::AUTH_NULL).put(&0u32).put(&stat);
        reply
    }

    /// `PROG_MISMATCH`: the one version there is.
    pub(crate) fn program_mismatch(xid: u32, version: u32) -> Self {
        let mut reply = Self::refused(xid, accept_stat::PROG_MISMATCH);
        reply.put(&version).put(&version);
        reply
    }

    fn rpc_mismatch(xid: u32) -> Self {
        let mut reply = Self::begin(xid, reply_stat::MSG_DENIED);
        reply.put(&reject_stat::RPC_MISMATCH).put(&RPC_VERSION_2).put(&RPC_VERSION_2);
        reply
    }

    pub(crate) fn auth_error(xid: u32, stat: auth_stat) -> Self {
        let mut reply = Self::begin(xid, reply_stat::MSG_DENIED);
        reply.put(&reject_stat::AUTH_ERROR).put(&stat);
        reply
    }

    /// A reply as it was sent before.
    pub(crate) fn again(bytes: &Bytes) -> Self {
        Self { head: bytes.to_vec(), ..Self::default() }
    }

    /// Appends a value.
    pub(crate) fn put(&mut self, value: &impl Pack) -> &mut Self {
        value.pack(&mut self.head).expect("a Vec takes any bytes, and nothing here is 4 GiB long");
        self
    }

    /// Appends bytes that are XDR already.
    pub(crate) fn put_encoded(&mut self, bytes: &[u8]) -> &mut Self {
        self.head.extend_from_slice(bytes);
        self
    }

    /// Ends the reply with counted bytes, which are not copied.
    pub(crate) fn put_payload(&mut self, payload: Bytes) -> &mut Self {
        let len = u32::try_from(payload.len()).expect("a READ gives at most TRANSFER_LEN_MAX bytes");
        self.put(&len);
        self.set_payload(payload);
        self
    }

    pub(crate) fn set_payload(&mut self, payload: Bytes) {
        self.payload = payload;
    }

    /// Keeps the share of the server's budget until the reply is sent.
    pub(crate) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }

    /// Overwrites the status that the results begin with.
    pub(crate) fn set_status(&mut self, status: u32) {
        if let Some(at) = self.head.get_mut(RESULT_AT..RESULT_AT + 4) {
            at.copy_from_slice(&status.to_be_bytes());
        }
    }

    /// The head with its record mark, the payload, and what is held for it.
    pub(crate) fn into_parts(mut self) -> (Vec<u8>, Bytes, Option<OwnedSemaphorePermit>) {
        let len = self.head.len() - MARK_LEN + self.payload.len() + padding(self.payload.len());
        let mark = u32::try_from(len).expect("a reply is below 2 GiB") | 1 << 31;
        if let Some(at) = self.head.first_chunk_mut::<MARK_LEN>() {
            *at = mark.to_be_bytes();
        }
        (self.head, self.payload, self.permit)
    }

    /// A copy of a reply without payload, to send again.
    pub(crate) fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(words: &[u32]) -> Bytes {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    fn head(refused: Result<Call, Refused>) -> Option<Vec<u8>> {
        match refused {
            Err(Refused::Answered(reply)) => Some(reply.into_parts().0),
            _ => None,
        }
    }

    #[test]
    fn a_call_is_parsed_up_to_its_arguments() {
        let record = words(&[7, 0, 2, 100_003, 3, 1, 0, 0, 0, 0, 0xabcd]);
        let call = Call::parse(record).expect("is a call");
        assert_eq!((call.xid, call.program, call.version, call.procedure), (7, 100_003, 3, 1));
        assert_eq!(call.args.rest().as_ref(), [0, 0, 0xab, 0xcd]);
    }

    #[test]
    fn what_is_no_call_has_no_answer() {
        for record in [words(&[]), words(&[7]), words(&[7, 1, 2, 3, 4, 5, 6]), words(&[7, 0, 2, 100_003])] {
            assert!(matches!(Call::parse(record), Err(Refused::NotACall)));
        }
    }

    #[test]
    fn rpc_answers_what_is_its_own() {
        let mismatch = head(Call::parse(words(&[7, 0, 3, 100_003, 3, 1])));
        assert_eq!(mismatch.as_deref(), Some(&*words(&[0x8000_0014 + 4, 7, 1, 1, 0, 2, 2])));
        let long = head(Call::parse(words(&[7, 0, 2, 100_003, 3, 1, 1, 401])));
        assert_eq!(long.as_deref(), Some(&*words(&[0x8000_0014, 7, 1, 1, 1, 1])));
        let verifier = head(Call::parse(words(&[7, 0, 2, 100_003, 3, 1, 0, 0, 0, 9])));
        assert_eq!(verifier.as_deref(), Some(&*words(&[0x8000_0014, 7, 1, 1, 1, 3])));
    }

    #[test]
    fn credentials_are_bounded() {
        let unix = |count: u32, gids: u32| {
            let mut all = vec![1, 3, 0x6162_6300, 10, 20, count];
            all.extend(0..gids);
            claimed(1, words(&all))
        };
        assert_eq!(unix(2, 2), Ok(Claimed::Unix { uid: 10, gid: 20, groups: vec![0, 1] }));
        assert!(unix(16, 16).is_ok());
        assert_eq!(unix(17, 17), Err(auth_stat::AUTH_BADCRED));
        assert_eq!(unix(u32::MAX, 1), Err(auth_stat::AUTH_BADCRED));
        assert_eq!(claimed(1, words(&[1, 256])), Err(auth_stat::AUTH_BADCRED));
        assert_eq!(claimed(0, Bytes::new()), Ok(Claimed::Nobody));
        assert_eq!(claimed(6, Bytes::new()), Err(auth_stat::AUTH_REJECTEDCRED));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(record in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(call) = Call::parse(record.into()) {
                claimed(call.flavor, call.credentials).ok();
            }
        }
    }
}
