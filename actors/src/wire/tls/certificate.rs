//! Certificate: the few fields of an X.509 certificate that an operator or a handler asks for.
//!
//! Read from DER without recursion or allocation, and never trusted: verifying is rustls' work. A crate for all of
//! X.509 would be ten crates.
//! Not here: files (`pem`), chains and keys (`server`).

use std::{
    fmt::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Attribute types of a name with the short names of RFC 4514, and of the few others that are in use. OIDs in DER.
const ATTRIBUTES: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 42], "GN"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 1, 25], "DC"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 9, 1], "emailAddress"),
];

const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0C;
const PRINTABLE_STRING: u8 = 0x13;
const T61_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BMP_STRING: u8 = 0x1E;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xA0;

/// The subject of a certificate, and the time for which it is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    version: u8,
    subject: String,
    common_name: Option<String>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl CertificateInfo {
    /// Reads a certificate in DER. `None` if it is none. Nothing is verified.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(SEQUENCE)?);
        let mut fields = Der(certificate.expect(SEQUENCE)?);
        let version = match fields.take_if(VERSION) {
            None => 1,
            Some(version) => match Der(version).expect(INTEGER)? {
                [version @ 0..=2] => version + 1,
                _ => return None,
            },
        };
        let _serial = fields.expect(INTEGER)?;
        let _algorithm = fields.expect(SEQUENCE)?;
        let _issuer = fields.expect(SEQUENCE)?;
        let mut validity = Der(fields.expect(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let (subject, common_name) = name(fields.expect(SEQUENCE)?)?;
        Some(Self { version, subject, common_name, not_before, not_after })
    }

    /// Returns its version of X.509: 1 to 3.
    pub(super) fn version(&self) -> u8 {
        self.version
    }

    /// Returns the subject as RFC 4514 writes it: `CN=alice,O=Example`. It may be empty. For a log use
    /// [`Escaped`](crate::Escaped): whoever signed it chose the characters.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the subject's common name, if it has one; the last, if it has several.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// Returns the time from which on it is valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Returns the time until which it is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// DER elements, one behind the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next element: its tag and its contents.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let len = match first {
            0..=0x7F => usize::from(first),
            // Up to 16 MiB, as a certificate in TLS.
            0x81..=0x83 => {
                let (bytes, behind) = rest.split_at_checked(usize::from(first & 0x7F))?;
                rest = behind;
                bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte))
            }
            _ => return None,
        };
        let (contents, behind) = rest.split_at_checked(len)?;
        self.0 = behind;
        Some((tag, contents))
    }

    /// Takes the next element, which has to be of this kind.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
    }

    fn take_if(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.expect(tag) } else { None }
    }

    fn time(&mut self) -> Option<SystemTime> {
        let (tag, text) = self.next()?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = text.split_at_checked(2)?;
                let year = number(year)?;
                (if year < 50 { 2000 + year } else { 1900 + year }, rest)
            }
            GENERALIZED_TIME => {
                let (year, rest) = text.split_at_checked(4)?;
                (number(year)?, rest)
            }
            _ => return None,
        };
        let (&[m1, m2, d1, d2, h1, h2, min1, min2, s1, s2], b"Z") = rest.split_first_chunk::<10>()? else {
            return None;
        };
        let [month, day, hour, minute, second] =
            [[m1, m2], [d1, d2], [h1, h2], [min1, min2], [s1, s2]].map(|digits| number(&digits));
        let (month, day) = (month.filter(|month| (1..=12).contains(month))?, day.filter(|day| (1..=31).contains(day))?);
        let seconds = days(year, month, day) * 86_400 + hour? * 3600 + minute? * 60 + second?;
        let distance = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    let all = digits.iter().all(u8::is_ascii_digit);
    all.then(|| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
}

/// Days from 1970 to a date. The year begins in March, so that a leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
        - 719_469
}

/// The name as RFC 4514 writes it, the last part first, and its common name.
fn name(parts: &[u8]) -> Option<(String, Option<String>)> {
    let mut texts = Vec::new();
    let mut common_name = None;
    let mut parts = Der(parts);
    while !parts.0.is_empty() {
        let mut attributes = Der(parts.expect(SET)?);
        let mut text = String::new();
        while !attributes.0.is_empty() {
            let mut attribute = Der(attributes.expect(SEQUENCE)?);
            let (oid, (tag, value)) = (attribute.expect(OBJECT_ID)?, attribute.next()?);
            let known = ATTRIBUTES.iter().find(|(known, _)| *known == oid);
            if !text.is_empty() {
                text.push('+');
            }
            match (known, string(tag, value)) {
                (Some((_, name)), Some(value)) => {
                    let _ = write!(text, "{name}={}", EscapedValue(&value));
                    if *name == "CN" {
                        common_name = Some(value);
                    }
                }
                _ => {
                    let _ = write!(text, "{}=#", ObjectId(oid));
                    let hex = |text: &mut String, byte: u8| {
                        let _ = write!(text, "{byte:02x}");
                    };
                    // The whole element, whose header is as long as it has to be.
                    hex(&mut text, tag);
                    len_bytes(value.len()).iter().for_each(|byte| hex(&mut text, *byte));
                    value.iter().for_each(|byte| hex(&mut text, *byte));
                }
            }
        }
        texts.push(text);
    }
    texts.reverse();
    Some((texts.join(","), common_name))
}

/// A length as DER writes it.
fn len_bytes(len: usize) -> Vec<u8> {
    let bytes = len.to_be_bytes();
    let bytes = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
    if len < 0x80 { bytes.to_vec() } else { [&[0x80 | bytes.len() as u8], bytes].concat() }
}

fn string(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING => std::str::from_utf8(value).ok().map(str::to_owned),
        PRINTABLE_STRING | IA5_STRING if value.is_ascii() => Some(value.iter().map(|byte| char::from(*byte)).collect()),
        T61_STRING => Some(value.iter().map(|byte| char::from(*byte)).collect()),
        BMP_STRING => {
            let units = value.chunks(2).map(|unit| Some(u16::from_be_bytes(unit.try_into().ok()?)));
            String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
        }
        _ => None,
    }
}

/// A value as RFC 4514, section 2.4, writes it.
struct EscapedValue<'a>(&'a str);

impl std::fmt::Display for EscapedValue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = self.0.chars().count().saturating_sub(1);
        for (at, char) in self.0.chars().enumerate() {
            match char {
                '"' | '+' | ',' | ';' | '<' | '>' | '\\' => write!(f, "\\{char}")?,
                '#' if at == 0 => f.write_str("\\#")?,
                ' ' if at == 0 || at == last => f.write_str("\\ ")?,
                '\0' => f.write_str("\\00")?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// An object identifier with dots.
struct ObjectId<'a>(&'a [u8]);

impl std::fmt::Display for ObjectId<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut arc = 0_u64;
        let mut is_first = true;
        for byte in self.0 {
            arc = arc << 7 | u64::from(byte & 0x7F);
            if byte & 0x80 != 0 {
                continue;
            }
            if is_first {
                let first = (arc / 40).min(2);
                write!(f, "{first}.{}", arc - 40 * first)?;
                is_first = false;
            } else {
                write!(f, ".{arc}")?;
            }
            arc = 0;
        }
        Ok(())
    }
}

/// A time as people write it, in UTC: `2026-11-26 08:25:00 UTC`.
pub(super) fn show_time(time: SystemTime) -> String {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    };
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The inverse of `days`.
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = (if month < 10 { month + 3 } else { month - 9 }, year + era * 400);
    let year = if month <= 2 { year + 1 } else { year };
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    use super::*;

    /// A certificate with a subject of many kinds.
    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let name = &mut params.distinguished_name;
        name.push(DnType::CountryName, DnValue::PrintableString("AT".try_into().unwrap()));
        name.push(DnType::OrganizationName, "B\u{e4}cker, \"S\u{f6}hne\" + Co ");
        name.push(DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 2]), "odd");
        name.push(DnType::CommonName, DnValue::BmpString("#\u{20ac}".try_into().unwrap()));
        params.not_after = rcgen::date_time_ymd(2051, 2, 3);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is found in it can be shown.
        #[test]
        fn a_damaged_certificate_is_read_or_refused(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..6),
            end in prop::option::of(any::<prop::sample::Index>()),
        ) {
            thread_local!(static WHOLE: Vec<u8> = certificate());
            let mut der = WHOLE.with(Clone::clone);
            for (at, byte, kind) in damage {
                // Most of the fields that are read stand at its beginning.
                let at = at.index(der.len().min(300));
                match kind {
                    0 => der[at] = byte,
                    1 => der.insert(at, byte),
                    _ => drop(der.remove(at)),
                }
            }
            if let Some(end) = end {
                der.truncate(end.index(der.len()));
            }
            if let Some(info) = CertificateInfo::parse(&der) {
                let shown = format!("{} {} {:?}", show_time(info.not_before()), show_time(info.not_after()), info);
                prop_assert!(shown.contains(" UTC "));
            }
        }
    }

    #[test]
    fn a_whole_certificate_is_read() {
        let info = CertificateInfo::parse(&certificate()).unwrap();
        assert_eq!((info.version(), info.common_name()), (3, Some("#\u{20ac}")));
        assert_eq!(show_time(info.not_after()), "2051-02-03 00:00:00 UTC");
    }

    #[test]
    fn dates_are_days_and_days_are_dates() {
        assert_eq!((days(1970, 1, 1), days(2000, 3, 1), days(1969, 12, 31)), (0, 11_017, -1));
        for day in (-800_000..800_000).step_by(17) {
            let time = |seconds: u64| Duration::from_secs(seconds);
            let at = if day < 0 {
                UNIX_EPOCH - time((-day) as u64 * 86_400)
            } else {
                UNIX_EPOCH + time(day as u64 * 86_400 + 3661)
            };
            let shown = show_time(at);
            let (date, clock) = shown.split_once(' ').unwrap();
            let [year, month, date] = date.rsplitn(3, '-').map(|part| part.parse().unwrap()).collect::<Vec<i64>>()[..]
            else {
                panic!("{shown}")
            };
            let [year, month, date] = [date, month, year];
            assert_eq!(days(year, month, date), day, "{shown}");
            assert_eq!(clock, if day < 0 { "00:00:00 UTC" } else { "01:01:01 UTC" });
        }
    }

    #[test]
    fn a_time_is_read_in_either_form() {
        let read = |tag: u8, text: &str| {
            let der = [&[tag, text.len() as u8], text.as_bytes()].concat();
            Der(&der).time().map(show_time)
        };
        assert_eq!(read(UTC_TIME, "491231235959Z").as_deref(), Some("2049-12-31 23:59:59 UTC"));
        assert_eq!(read(UTC_TIME, "500101000000Z").as_deref(), Some("1950-01-01 00:00:00 UTC"));
        assert_eq!(read(GENERALIZED_TIME, "20500228120000Z").as_deref(), Some("2050-02-28 12:00:00 UTC"));
        for (tag, text) in
            [(UTC_TIME, "4912312359Z"), (GENERALIZED_TIME, "20501328120000Z"), (INTEGER, "1"), (UTC_TIME, "")]
        {
            assert_eq!(read(tag, text), None, "{text}");
        }
    }

    #[test]
    fn a_name_is_written_as_the_rfc_says() {
        let element = |tag: u8, contents: &[u8]| [&[tag], &len_bytes(contents.len())[..], contents].concat();
        let attribute =
            |oid: &[u8], tag, value: &[u8]| element(SEQUENCE, &[element(OBJECT_ID, oid), element(tag, value)].concat());
        let parts = [
            element(SET, &attribute(&[0x55, 4, 6], PRINTABLE_STRING, b"AT")),
            element(SET, &attribute(&[0x55, 4, 10], UTF8_STRING, "Bäcker, \"Söhne\" + Co ".as_bytes())),
            element(
                SET,
                &[
                    attribute(&[0x55, 4, 3], BMP_STRING, &[0, b'#', 0x20, 0xAC]),
                    attribute(&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 9, 2], 4, &[0xAB; 200]),
                ]
                .concat(),
            ),
        ]
        .concat();
        let (text, common_name) = name(&parts).unwrap();
        let rest =
            format!("+1.2.840.113549.1.9.2=#0481c8{},O=Bäcker\\, \\\"Söhne\\\" \\+ Co\\ ,C=AT", "ab".repeat(200));
        assert_eq!(text, format!("CN=\\#€{rest}"));
        assert_eq!(common_name.as_deref(), Some("#€"));
        assert_eq!(name(&[]), Some((String::new(), None)));
        assert_eq!(name(&parts[..20]), None);
    }
}
