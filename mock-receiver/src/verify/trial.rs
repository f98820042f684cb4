//! Finding the slip that gives the signature which was received.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature as Ed25519, Signer as _, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq as _;

use super::{
    Cause, CauseKind, Scheme, Secret, Signature, Verdict,
    body::variants,
    claim::{Claim, Given},
    secret::hex,
    skew,
};
use crate::capture::Record;

/// How many bytes one search may hash; a body of 64 MiB leaves only the check itself.
const BUDGET_BYTES: usize = 64 << 20;
/// What a check of ed25519 costs, in bytes hashed.
const CURVE_COST: usize = 16 << 10;
/// How many slips are made at once.
const SLIPS_MAX: usize = 2;
/// Up to how many seconds a time that was signed is looked for around the one sent.
const SECONDS_AROUND: i64 = 300;
/// The same for ed25519, where a check costs a hundred times as much.
const SECONDS_AROUND_CURVE: i64 = 5;

/// A key to try.
pub(super) struct Key {
    pub(super) material: Material,
    /// The secret it comes from, from 1; 0 for one of another bin.
    pub(super) secret: usize,
    pub(super) causes: Vec<Cause>,
}

#[derive(Clone)]
pub(super) enum Material {
    Hmac(Vec<u8>),
    Pair(Box<SigningKey>),
    Public(Box<VerifyingKey>),
}

/// A text to try, in two parts so that a large body is there once.
pub(super) struct Message<'a> {
    pub(super) prefix: Vec<u8>,
    pub(super) body: &'a [u8],
    pub(super) causes: Vec<Cause>,
    /// Tried with unaltered keys only, because there are many of its kind.
    pub(super) alone: bool,
}

/// What gives the signature.
pub(super) struct Found {
    pub(super) secret: usize,
    pub(super) causes: Vec<Cause>,
}

/// The explanation with the fewest slips; the flag says that the search was cut short.
pub(super) fn search(
    keys: &[Key],
    messages: &[Message<'_>],
    given: &[Given],
) -> (Option<Found>, bool) {
    let mut best: Option<(usize, Found)> = None;
    let mut budget = BUDGET_BYTES;
    for slips in 0..=SLIPS_MAX {
        if best.as_ref().is_some_and(|(least, _)| *least <= slips) {
            break;
        }
        for key in keys {
            let own = key.causes.iter().all(|cause| cause.kind == CauseKind::OtherSecret);
            for message in messages {
                if key.causes.len() + message.causes.len() != slips || (message.alone && !own) {
                    continue;
                }
                let cost = key.material.cost(message);
                if cost > budget && slips > 0 {
                    return (best.map(|(_, found)| found), true);
                }
                budget = budget.saturating_sub(cost);
                for (at, other) in key.material.hits(message, given) {
                    let total = slips + given[at].causes.len() + usize::from(other.is_some());
                    if best.as_ref().is_none_or(|(least, _)| total < *least) {
                        let causes = key.causes.iter().chain(&message.causes);
                        let causes = causes.chain(&given[at].causes).cloned().chain(other);
                        best =
                            Some((total, Found { secret: key.secret, causes: causes.collect() }));
                    }
                }
            }
        }
    }
    (best.map(|(_, found)| found), false)
}

impl Material {
    fn cost(&self, message: &Message<'_>) -> usize {
        let text = message.prefix.len() + message.body.len() + 256;
        text + if matches!(self, Self::Hmac(_)) { 0 } else { CURVE_COST }
    }

    /// The signatures that it makes of the message, each with the hash where it is another one.
    fn hits(&self, message: &Message<'_>, given: &[Given]) -> Vec<(usize, Option<Cause>)> {
        let of = |length: usize| given.iter().any(|given| given.bytes.len() == length);
        let mut hits = Vec::new();
        match self {
            Self::Hmac(key) => {
                for (length, hash) in [(32, "SHA-256"), (48, "SHA-384"), (64, "SHA-512")] {
                    if !of(length) {
                        continue;
                    }
                    let made = mac(hash, key, message);
                    let other = (length != 32).then(|| {
                        let text = format!("the hash was {hash}, the scheme's is SHA-256");
                        Cause::new(CauseKind::OtherAlgorithm, text)
                    });
                    let same = |given: &Given| bool::from(given.bytes.ct_eq(&made));
                    let equal = given.iter().enumerate().filter(|(_, given)| same(given));
                    hits.extend(equal.map(|(at, _)| (at, other.clone())));
                }
            }
            Self::Pair(_) | Self::Public(_) => {
                let public = match self {
                    Self::Pair(pair) => pair.verifying_key(),
                    Self::Public(public) => **public,
                    Self::Hmac(_) => return hits,
                };
                let text = [&message.prefix, message.body].concat();
                for (at, given) in given.iter().enumerate() {
                    let signature = Ed25519::from_slice(&given.bytes);
                    if signature.is_ok_and(|one| public.verify_strict(&text, &one).is_ok()) {
                        hits.push((at, None));
                    }
                }
            }
        }
        hits
    }

    /// The signature of a message; `None` with a public key alone.
    pub(super) fn sign(&self, message: &Message<'_>) -> Option<Vec<u8>> {
        match self {
            Self::Hmac(key) => Some(mac("SHA-256", key, message)),
            Self::Pair(pair) => {
                Some(pair.sign(&[&message.prefix, message.body].concat()).to_bytes().to_vec())
            }
            Self::Public(_) => None,
        }
    }
}

fn mac(hash: &str, key: &[u8], message: &Message<'_>) -> Vec<u8> {
    macro_rules! with {
        ($hash:ty) => {
            Hmac::<$hash>::new_from_slice(key).map_or_else(
                |_| Vec::new(), // A key may have any length (RFC 2104 §3): not reached.
                |mut mac| {
                    mac.update(&message.prefix);
                    mac.update(message.body);
                    mac.finalize().into_bytes().to_vec()
                },
            )
        };
    }
    match hash {
        "SHA-512" => with!(Sha512),
        "SHA-384" => with!(Sha384),
        _ => with!(Sha256),
    }
}

/// All keys that the secrets may stand for.
pub(super) fn keys(
    secrets: &[Secret],
    others: &[(String, Secret)],
    decodes: bool,
    curve: bool,
) -> Vec<Key> {
    let mut keys = Vec::new();
    let of = |secret: &Secret| -> Vec<(Material, Option<Cause>)> {
        if curve {
            return secret.pair().into_iter().map(|pair| (pair, None)).collect();
        }
        if ["whsk_", "whpk_"].iter().any(|prefix| secret.text().starts_with(prefix)) {
            return Vec::new();
        }
        let keys = secret.keys(decodes).into_iter();
        keys.map(|(key, cause)| (Material::Hmac(key), cause)).collect()
    };
    for (at, secret) in secrets.iter().enumerate() {
        let other = (at > 0).then(|| {
            let text = format!(
                "made with secret {} of {}, not with the first: who knows only the first \
                 refuses it",
                at + 1,
                secrets.len()
            );
            Cause::new(CauseKind::OtherSecret, text)
        });
        for (material, cause) in of(secret) {
            let causes = other.clone().into_iter().chain(cause).collect();
            keys.push(Key { material, secret: at + 1, causes });
        }
    }
    for (bin, secret) in others {
        if let Some((material, None)) = of(secret).into_iter().next() {
            let text = format!("made with a secret of bin {bin:?}");
            let causes = vec![Cause::new(CauseKind::SecretOfAnotherBin, text)];
            keys.push(Key { material, secret: 0, causes });
        }
    }
    keys
}

impl Secret {
    /// The ed25519 key that it is: base64 of 64 bytes (seed and public key) or 32 (public).
    fn pair(&self) -> Option<Material> {
        let bytes = self.decoded()?;
        match (self.text().starts_with("whsk_"), self.text().starts_with("whpk_")) {
            (true, _) => {
                let pair = SigningKey::from_keypair_bytes(bytes.as_slice().try_into().ok()?);
                pair.ok().map(|pair| Material::Pair(Box::new(pair)))
            }
            (_, true) => {
                let public = VerifyingKey::from_bytes(bytes.as_slice().try_into().ok()?);
                public.ok().map(|public| Material::Public(Box::new(public)))
            }
            _ => None,
        }
    }
}

/// Judges one claim.
pub(super) fn judge(
    claim: Claim,
    record: &Record,
    secrets: &[Secret],
    others: &[(String, Secret)],
) -> Signature {
    let curve = claim.scheme == Scheme::StandardV1a;
    let keys = keys(secrets, others, claim.scheme.decodes(), curve);
    let checkable = keys.iter().any(|key| key.secret > 0);
    let bodies = variants(&record.body);
    let messages = messages(&claim, record, &bodies);
    let canonical = messages.first().filter(|message| message.causes.is_empty());

    let expected = canonical.and_then(|message| {
        let key = keys.iter().find(|key| key.causes.is_empty())?;
        key.material.sign(message).map(|made| shown(&claim, &made))
    });
    let signed =
        canonical.map_or_else(Vec::new, |message| [&message.prefix, message.body].concat());
    let (found, cut) =
        if checkable { search(&keys, &messages, &claim.given) } else { (None, false) };

    let mut causes = claim.troubles.clone();
    let time = claim.timestamp.as_ref().and_then(|text| text.parse::<i64>().ok());
    if !causes.iter().any(|cause| cause.kind == CauseKind::TimestampMalformed) {
        causes.extend(time.and_then(|time| skew(time, record.at)));
    }
    let secret = found.as_ref().map(|found| found.secret).filter(|secret| *secret > 0);
    let sound = |cause: &Cause| cause.kind == CauseKind::OtherSecret;
    let holds =
        causes.is_empty() && found.as_ref().is_some_and(|found| found.causes.iter().all(sound));
    match found {
        Some(found) => drop(causes.splice(0..0, found.causes)),
        None if checkable && !claim.given.is_empty() => {
            causes.insert(0, unknown(&claim.given, curve, cut));
        }
        None => {}
    }
    let verdict = match (checkable, holds) {
        (false, _) => Verdict::Unchecked,
        (true, true) => Verdict::Valid,
        (true, false) => Verdict::Invalid,
    };
    let Claim { scheme, header, received, .. } = claim;
    Signature { scheme, header, verdict, signed, expected, received, secret, causes }
}

/// What to say where nothing fits.
pub(super) fn unknown(given: &[Given], curve: bool, cut: bool) -> Cause {
    let length = given.iter().map(|given| given.bytes.len()).find(|length| *length != 48);
    match length {
        Some(20) if !curve => Cause::new(
            CauseKind::OtherAlgorithm,
            "the signature has 20 bytes, the length of SHA-1; the scheme's hash is SHA-256",
        ),
        Some(length) if length != if curve { 64 } else { 32 } => Cause::new(
            CauseKind::HeaderMalformed,
            format!(
                "the signature has {length} bytes, the scheme's have {}",
                if curve { 64 } else { 32 }
            ),
        ),
        _ => {
            let cut = if cut { " (the search was cut short: the body is large)" } else { "" };
            let text = format!(
                "no known slip gives this signature{cut}: another secret, or a body that was \
                 changed in some other way"
            );
            Cause::new(CauseKind::Unknown, text)
        }
    }
}

fn messages<'a>(
    claim: &Claim,
    record: &'a Record,
    bodies: &'a [(Vec<u8>, Cause)],
) -> Vec<Message<'a>> {
    let mut messages = Vec::new();
    let body: &[u8] = &record.body;
    if let Some(prefix) = &claim.prefix {
        let prefix = || prefix.clone();
        messages.push(Message { prefix: prefix(), body, causes: Vec::new(), alone: false });
        for (body, cause) in bodies {
            let causes = vec![cause.clone()];
            messages.push(Message { prefix: prefix(), body, causes, alone: false });
        }
    }
    for (prefix, cause) in &claim.alternatives {
        let causes = vec![cause.clone()];
        messages.push(Message { prefix: prefix.clone(), body, causes, alone: false });
    }
    for (time, cause) in times(claim) {
        let prefix = match (claim.scheme, &claim.id) {
            (Scheme::Stripe, _) => format!("{time}."),
            (Scheme::Slack, _) => format!("v0:{time}:"),
            (_, Some(id)) => format!("{id}.{time}."),
            (_, None) => continue,
        };
        let causes = vec![cause];
        messages.push(Message { prefix: prefix.into_bytes(), body, causes, alone: true });
    }
    messages
}

/// Times that may have been signed in the place of the one sent.
fn times(claim: &Claim) -> Vec<(i64, Cause)> {
    let Some(sent) = claim.timestamp.as_ref().and_then(|text| text.parse::<i64>().ok()) else {
        return Vec::new();
    };
    let cause = |text: String| Cause::new(CauseKind::TimestampDiffers, text);
    let mut times = Vec::new();
    if let Some(millis) = sent.checked_mul(1000) {
        times.push((
            millis,
            cause("the time was signed in milliseconds and sent in seconds".into()),
        ));
        times.push((
            sent / 1000,
            cause("the time was signed in seconds and sent in milliseconds".into()),
        ));
    }
    let curve = claim.scheme == Scheme::StandardV1a;
    let most = if curve { SECONDS_AROUND_CURVE } else { SECONDS_AROUND };
    for around in (1..=most).flat_map(|seconds| [-seconds, seconds]) {
        if let Some(time) = sent.checked_add(around) {
            let side = if around < 0 { "before" } else { "after" };
            let seconds = around.unsigned_abs();
            times
                .push((time, cause(format!("the signed time is {seconds} s {side} the one sent"))));
        }
    }
    times
}

/// A signature as it would stand in the header.
fn shown(claim: &Claim, made: &[u8]) -> String {
    match claim.scheme {
        Scheme::StandardV1 => format!("v1,{}", STANDARD.encode(made)),
        Scheme::StandardV1a => format!("v1a,{}", STANDARD.encode(made)),
        Scheme::Github => format!("sha256={}", hex(made)),
        Scheme::Slack => format!("v0={}", hex(made)),
        Scheme::Stripe => {
            format!("t={},v1={}", claim.timestamp.as_deref().unwrap_or_default(), hex(made))
        }
        Scheme::Shopify | Scheme::HttpMessage => STANDARD.encode(made),
        Scheme::Hmac => {
            let prefix = if claim.received.starts_with("sha256=") { "sha256=" } else { "" };
            let bare = claim.received.strip_prefix("sha256=").unwrap_or(&claim.received);
            // In the manner in which the sender wrote its own.
            let digits = bare.bytes().all(|byte| byte.is_ascii_hexdigit());
            format!("{prefix}{}", if digits { hex(made) } else { STANDARD.encode(made) })
        }
    }
}
