//! From bytes to words, names and records (RFC 1035 §4.1). Nothing is read past the end, and no name takes more steps than an honest one
//! could.

/// Bytes before the first question.
pub(super) const HEADER: usize = 12;
/// Bytes of the longest name as it is sent, with the zero at its end (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;
/// A name has no more parts, so that none has a reason to refer back more often.
const MAX_POINTERS: usize = 127;

#[derive(Debug)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) flags: u16,
    pub(super) questions: u16,
    pub(super) answers: u16,
    pub(super) authorities: u16,
    pub(super) additional: u16,
}

#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: u16,
    pub(super) class: u16,
    /// Seconds.
    pub(super) ttl: u32,
    /// From the beginning of the message to the end of the data.
    message: &'a [u8],
    data_at: usize,
}

impl<'a> Record<'a> {
    pub(super) fn data(&self) -> &'a [u8] {
        self.message.get(self.data_at..).unwrap_or_default()
    }

    /// Reads the data as a name and nothing else.
    pub(super) fn name(&self, into: &mut String) -> Option<()> {
        let mut reader = Reader {
            message: self.message,
            at: self.data_at,
        };
        reader.name(into)?;
        reader.is_at_end().then_some(())
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.message.len()
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.message.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(*bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub(super) fn header(&mut self) -> Option<Header> {
        Some(Header {
            id: self.u16()?,
            flags: self.u16()?,
            questions: self.u16()?,
            answers: self.u16()?,
            authorities: self.u16()?,
            additional: self.u16()?,
        })
    }

    /// Reads a record, whose owner's name it leaves in `owner`.
    pub(super) fn record(&mut self, owner: &mut String) -> Option<Record<'a>> {
        self.name(owner)?;
        let kind = self.u16()?;
        let class = self.u16()?;
        let ttl = self.take().map(u32::from_be_bytes)?;
        let length = usize::from(self.u16()?);
        let data_at = self.at;
        let message = self.message.get(..data_at + length)?;
        self.at = message.len();
        Some(Record {
            kind,
            class,
            // A negative one is none (RFC 2181 §8).
            ttl: if ttl > i32::MAX.unsigned_abs() {
                0
            } else {
                ttl
            },
            message,
            data_at,
        })
    }

    /// Reads a name, in the form of [`Query::name`](super::Query::name).
    pub(super) fn name(&mut self, into: &mut String) -> Option<()> {
        into.clear();
        // Where what is read at present begins: what it refers back to lies before that, so that no name refers to itself.
        let mut start = self.at;
        let mut after = None;
        let mut length = 1;
        let mut pointers = 0;
        loop {
            let [first] = self.take()?;
            match first {
                0 => break,
                1..=63 => {
                    length += 1 + usize::from(first);
                    if length > MAX_NAME {
                        return None;
                    }
                    let end = self.at + usize::from(first);
                    let label = self.message.get(self.at..end)?;
                    self.at = end;
                    push(into, label);
                }
                0xc0.. => {
                    let [second] = self.take()?;
                    let target = usize::from(u16::from_be_bytes([first & 0x3f, second]));
                    pointers += 1;
                    if target >= start || target < HEADER || pointers > MAX_POINTERS {
                        return None;
                    }
                    after.get_or_insert(self.at);
                    start = target;
                    self.at = target;
                }
                // Reserved, or withdrawn (RFC 6891 §5).
                64..=0xbf => return None,
            }
        }
        self.at = after.unwrap_or(self.at);
        Some(())
    }
}

/// A dot within a part must not look like one between two: `www.example` below `org` would else be below `example.org`.
fn push(into: &mut String, label: &[u8]) {
    if !into.is_empty() {
        into.push('.');
    }
    for &byte in label {
        if byte.is_ascii_graphic() && byte != b'.' && byte != b'\\' {
            into.push(char::from(byte.to_ascii_lowercase()));
        } else {
            let digits = [byte / 100, byte / 10 % 10, byte % 10];
            into.push('\\');
            into.extend(digits.map(|digit| char::from(b'0' + digit)));
        }
    }
}
