//! The DNS zone of a network: `<member>.<network>.anyhop` and the reverse of its addresses.
//!
//! A query goes in as it was received and an answer comes out; who may ask, and what is done
//! about questions that are none of the zone's, is the caller's. Messages are read and
//! written by `hickory-proto`. What a name server has to do is in RFC 1035, RFC 2308 (what is
//! not there), RFC 6891 (EDNS) and RFC 8482 (questions for ANY).
//!
//! A member's name is a DNS label as it is, and its PeerId in lower case is another name of
//! it. What is no label becomes one (see [`dns_label`]); of two that are then alike, the
//! second has `-2` after it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhop_base::PeerId;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, NS, PTR, SOA},
    },
};

use crate::Prefix;

/// What all zones are below.
pub const TOP_DOMAIN: &str = "anyhop";
/// Longest answer over UDP, bytes: what no path cuts (as the DNS flag day 2020 has it).
pub const MAX_UDP_ANSWER: u16 = 1232;

/// Longest answer over UDP to who says nothing about it (RFC 1035 section 4.2.1).
const PLAIN_UDP_ANSWER: u16 = 512;
/// Longest label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
/// Bytes of a message's header.
const HEADER_LEN: usize = 12;
/// How long an answer may be kept, seconds: addresses move when a member is revoked whose
/// place another one takes.
const TTL_S: u32 = 30;
/// The same for what is not there: a member may join any moment.
const NEGATIVE_TTL_S: u32 = 5;

/// A member with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedMember {
    /// Who.
    pub peer: PeerId,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram, which limits the answer.
    Udp,
    /// Over a connection.
    Tcp,
}

/// What comes of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This is to be sent back.
    Reply(Vec<u8>),
    /// It is about none of the zone's names.
    Outside,
    /// No query: nothing may be sent back.
    Nothing,
}

/// What is asked for.
enum Found<'a> {
    /// A member.
    Member(&'a [IpAddr]),
    /// The reverse of an address.
    Reverse(&'a str),
    /// Something that has names below it, and the zone itself.
    Empty { apex: bool },
    /// Nothing, where the zone would have it.
    Missing,
    /// Nothing of the zone's.
    Outside,
}

/// The names of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameZone {
    origin: Name,
    domain: String,
    serial: u32,
    /// Who serves it: this node's own name.
    server: Name,
    prefixes: Vec<Prefix>,
    /// By label, in lower case.
    forward: BTreeMap<String, Vec<IpAddr>>,
    /// Labels by address.
    reverse: BTreeMap<IpAddr, String>,
}

impl NameZone {
    /// The zone of a network whose addresses are in `prefixes`, with its members; the first
    /// one serves it. `serial` tells this state of the zone from others.
    #[must_use]
    pub fn new(network: &str, prefixes: &[Prefix], members: &[NamedMember], serial: u32) -> Self {
        let domain = format!("{}.{TOP_DOMAIN}", dns_label(network));
        let origin = Name::from_ascii(format!("{domain}.")).expect("two labels are a name");
        let (mut forward, mut reverse) = (BTreeMap::new(), BTreeMap::new());
        let mut server = None;
        for member in members {
            let label = free_label(&dns_label(&member.name), &forward);
            for ip in &member.addresses {
                reverse.entry(*ip).or_insert_with(|| label.clone());
            }
            server.get_or_insert_with(|| below(&origin, &label));
            forward.insert(label, member.addresses.clone());
        }
        // Names go first, whatever they look like.
        for member in members {
            let id = member.peer.to_base58().to_ascii_lowercase();
            forward
                .entry(id)
                .or_insert_with(|| member.addresses.clone());
        }
        Self {
            server: server.unwrap_or_else(|| origin.clone()),
            origin,
            domain,
            serial,
            prefixes: prefixes.to_vec(),
            forward,
            reverse,
        }
    }

    /// What its names end in, such as `home.anyhop`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The domains of its addresses' reverse, such as `64.100.in-addr.arpa`.
    #[must_use]
    pub fn reverse_domains(&self) -> Vec<String> {
        let prefixes = self.prefixes.iter().map(|p| reverse_of(p.first(), p.len()));
        prefixes.collect()
    }

    /// Answers a query.
    #[must_use]
    pub fn answer(&self, query: &[u8], transport: Transport) -> Answer {
        let asked = match read(query) {
            Ok(asked) => asked,
            Err(answer) => return answer,
        };
        let Some(question) = asked.queries.first() else {
            return Answer::Nothing;
        };
        let found = self.find(question.name());
        if matches!(found, Found::Outside) {
            return Answer::Outside;
        }
        let mut reply = reply_to(&asked, ResponseCode::NoError);
        if question.query_class() != DNSClass::IN {
            reply.metadata.response_code = ResponseCode::Refused;
            return finish(&reply, &asked, transport);
        }
        // A transfer of the zone is an answer like no other; nobody needs one.
        if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
            reply.metadata.response_code = ResponseCode::Refused;
            return finish(&reply, &asked, transport);
        }
        reply.metadata.authoritative = true;
        reply.answers = self.records(question, &found);
        if matches!(found, Found::Missing) {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        if reply.answers.is_empty() {
            reply.authorities = vec![self.start_of_authority(question.name())];
        }
        finish(&reply, &asked, transport)
    }

    fn find(&self, name: &Name) -> Found<'_> {
        if self.origin.zone_of(name) {
            let labels = name.num_labels() - self.origin.num_labels();
            let first = name.iter().next().unwrap_or_default();
            let first = String::from_utf8_lossy(first).to_ascii_lowercase();
            return match (labels, self.forward.get(&first)) {
                (0, _) => Found::Empty { apex: true },
                (1, Some(addresses)) => Found::Member(addresses),
                _ => Found::Missing,
            };
        }
        let Some(asked) = reversed(name) else {
            return Found::Outside;
        };
        let whole = asked.len() == Prefix::host(asked.first()).len();
        match self.reverse.get(&asked.first()) {
            Some(label) if whole => return Found::Reverse(label),
            _ => {}
        }
        let within = |p: &Prefix| p.contains(asked.first()) && asked.len() >= p.len();
        match self.prefixes.iter().find(|p| within(p)) {
            None => Found::Outside,
            Some(prefix) if prefix.len() == asked.len() => Found::Empty { apex: true },
            Some(_) if self.reverse.keys().any(|ip| asked.contains(*ip)) => {
                Found::Empty { apex: false }
            }
            Some(_) => Found::Missing,
        }
    }

    fn records(&self, question: &Query, found: &Found<'_>) -> Vec<Record> {
        let kind = question.query_type();
        let wanted = |of: RecordType| kind == of || kind == RecordType::ANY;
        let record = |data| Record::from_rdata(question.name().clone(), TTL_S, data);
        match found {
            Found::Member(addresses) => {
                let data = addresses.iter().filter_map(|ip| match ip {
                    IpAddr::V4(ip) if wanted(RecordType::A) => Some(RData::A(A(*ip))),
                    IpAddr::V6(ip) if wanted(RecordType::AAAA) => Some(RData::AAAA(AAAA(*ip))),
                    _ => None,
                });
                data.map(record).collect()
            }
            Found::Reverse(label) if wanted(RecordType::PTR) => {
                vec![record(RData::PTR(PTR(below(&self.origin, label))))]
            }
            Found::Empty { apex: true } => {
                let mut records = Vec::new();
                if wanted(RecordType::SOA) {
                    records.push(self.start_of_authority(question.name()));
                }
                if wanted(RecordType::NS) {
                    records.push(record(RData::NS(NS(self.server.clone()))));
                }
                records
            }
            _ => Vec::new(),
        }
    }

    /// The record at the top of the zone that a name is in; how long its absence may be
    /// kept is told by that, too.
    fn start_of_authority(&self, name: &Name) -> Record {
        let top = if self.origin.zone_of(name) {
            self.origin.clone()
        } else {
            let prefix = reversed(name).and_then(|asked| {
                let mut around = self.prefixes.iter();
                around.find(|p| p.contains(asked.first()))
            });
            let top = prefix.map(|p| reverse_of(p.first(), p.len()));
            let top = top.and_then(|top| Name::from_ascii(format!("{top}.")).ok());
            top.unwrap_or_else(|| name.clone())
        };
        let person = below(&self.origin, "hostmaster");
        let refresh = TTL_S.cast_signed();
        let soa = SOA::new(
            self.server.clone(),
            person,
            self.serial,
            refresh,
            refresh,
            refresh,
            NEGATIVE_TTL_S,
        );
        Record::from_rdata(top, NEGATIVE_TTL_S, RData::SOA(soa))
    }
}

/// The answer to a query that nobody here answers: REFUSED. `None` for what is no query.
#[must_use]
pub fn refuse(query: &[u8]) -> Option<Vec<u8>> {
    match read(query) {
        Ok(asked) => reply_to(&asked, ResponseCode::Refused).to_vec().ok(),
        Err(Answer::Reply(reply)) => Some(reply),
        Err(_) => None,
    }
}

/// A name as a DNS label: in lower case, what is no letter, digit or `-` becomes `-`, and no
/// `-` stands at an edge. At most 63 bytes, and never empty.
#[must_use]
pub fn dns_label(name: &str) -> String {
    let chars = name.chars().map(|c| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    });
    let label: String = chars.take(MAX_LABEL).collect();
    match label.trim_matches('-') {
        "" => "x".to_owned(),
        label => label.to_owned(),
    }
}

/// The label, or the first of `label-2`, `label-3`, .. that is free.
fn free_label(label: &str, taken: &BTreeMap<String, Vec<IpAddr>>) -> String {
    if !taken.contains_key(label) {
        return label.to_owned();
    }
    let mut numbered = (2_u32..).map(|n| {
        let tail = format!("-{n}");
        let room = label.len().min(MAX_LABEL - tail.len());
        format!("{}{tail}", label[..room].trim_end_matches('-'))
    });
    let free = numbered.find(|name| !taken.contains_key(name));
    free.expect("there are more numbers than members")
}

/// A query, or what is to be done about what is none.
fn read(query: &[u8]) -> Result<Message, Answer> {
    let (Some(&id_high), Some(&id_low), Some(&flags)) = (query.first(), query.get(1), query.get(2))
    else {
        return Err(Answer::Nothing);
    };
    // Answering an answer would go on for ever.
    if query.len() < HEADER_LEN || flags & 0x80 != 0 {
        return Err(Answer::Nothing);
    }
    let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
    let failed = |code| {
        let id = u16::from_be_bytes([id_high, id_low]);
        let error = Message::error_msg(id, op_code, code).to_vec();
        error.map_or(Answer::Nothing, Answer::Reply)
    };
    if op_code != OpCode::Query {
        return Err(failed(ResponseCode::NotImp));
    }
    let asked = Message::from_vec(query).map_err(|_| failed(ResponseCode::FormErr))?;
    let plain = asked.message_type == MessageType::Query && asked.queries.len() == 1;
    let usable = plain && asked.answers.is_empty() && asked.authorities.is_empty();
    if !usable {
        return Err(failed(ResponseCode::FormErr));
    }
    if asked.edns.as_ref().is_some_and(|e| e.version() != 0) {
        let reply = reply_to(&asked, ResponseCode::BADVERS);
        return Err(finish(&reply, &asked, Transport::Udp));
    }
    Ok(asked)
}

fn reply_to(asked: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::error_msg(asked.id, asked.op_code, code);
    reply.metadata.recursion_desired = asked.recursion_desired;
    reply.metadata.checking_disabled = asked.checking_disabled;
    reply.add_queries(asked.queries.iter().cloned());
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_ANSWER);
        reply.set_edns(edns);
    }
    reply
}

/// The reply as it is sent: over UDP cut down, and marked so, where it is too long.
fn finish(reply: &Message, asked: &Message, transport: Transport) -> Answer {
    let room = match (transport, &asked.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => PLAIN_UDP_ANSWER,
        (Transport::Udp, Some(edns)) => {
            let said = edns.max_payload();
            said.clamp(PLAIN_UDP_ANSWER, MAX_UDP_ANSWER)
        }
    };
    let fits = |bytes: &Vec<u8>| bytes.len() <= usize::from(room);
    let whole = reply.to_vec().ok().filter(fits);
    let sent = whole.or_else(|| reply.truncate().to_vec().ok().filter(fits));
    sent.map_or(Answer::Nothing, Answer::Reply)
}

fn below(origin: &Name, label: &str) -> Name {
    let name = origin.prepend_label(label);
    name.expect("three labels of at most 63 bytes fit into a name")
}

/// The name of an address's reverse, or of a prefix's where labels end there.
fn reverse_of(ip: IpAddr, prefix_len: u8) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let octets = ip.octets();
            let labels = octets.iter().take(usize::from(prefix_len / 8)).rev();
            let labels = labels.map(|octet| format!("{octet}."));
            labels.collect::<String>() + "in-addr.arpa"
        }
        IpAddr::V6(ip) => {
            let digits = format!("{:032x}", ip.to_bits());
            let labels = digits[..usize::from(prefix_len / 4)].chars().rev();
            let labels = labels.map(|digit| format!("{digit}."));
            labels.collect::<String>() + "ip6.arpa"
        }
    }
}

/// The address or prefix that a name below `in-addr.arpa` or `ip6.arpa` is the reverse of.
fn reversed(name: &Name) -> Option<Prefix> {
    let labels: Vec<&str> = name
        .iter()
        .map(|label| std::str::from_utf8(label).ok())
        .collect::<Option<_>>()?;
    let (top, digits) = labels.split_last()?;
    let (family, digits) = digits.split_last()?;
    if !top.eq_ignore_ascii_case("arpa") {
        return None;
    }
    let digits = digits.iter().rev();
    if family.eq_ignore_ascii_case("in-addr") {
        let (mut octets, mut len) = ([0_u8; 4], 0);
        for label in digits {
            // One spelling of each number, or one address would have many names.
            let octet: u8 = label
                .parse()
                .ok()
                .filter(|o: &u8| o.to_string() == *label)?;
            *octets.get_mut(len)? = octet;
            len += 1;
        }
        Prefix::new(Ipv4Addr::from(octets).into(), len as u8 * 8)
    } else if family.eq_ignore_ascii_case("ip6") {
        let (mut bits, mut len) = (0_u128, 0_u8);
        for label in digits {
            let mut chars = label.chars();
            let digit = chars.next()?.to_digit(16)?;
            if chars.next().is_some() || len >= 128 {
                return None;
            }
            len += 4;
            bits |= u128::from(digit) << (128 - len);
        }
        Prefix::new(Ipv6Addr::from_bits(bits).into(), len)
    } else {
        None
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
