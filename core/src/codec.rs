//! Numbers and byte strings as the log and the statistics write them. Reading never trusts a length.

/// Bytes that break the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

pub(crate) type Decoded<T> = Result<T, Malformed>;

/// Appends to a byte vector.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }

    /// LEB128: seven bits a byte, the lowest first.
    fn put_var(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    /// Zigzag: small numbers of either sign take few bytes.
    fn put_signed(&mut self, value: i64) {
        self.put_var(((value << 1) ^ (value >> 63)) as u64);
    }

    fn put_text(&mut self, text: &str) {
        self.put_var(text.len() as u64);
        self.put(text.as_bytes());
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Reads from a byte slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Take<'a> {
    bytes: &'a [u8],
}

impl<'a> Take<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(Malformed)?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Decoded<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Decoded<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Decoded<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Decoded<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Decoded<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn uuid(&mut self) -> Decoded<uuid::Uuid> {
        Ok(uuid::Uuid::from_bytes(self.array()?))
    }

    pub(crate) fn var(&mut self) -> Decoded<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub(crate) fn var_u32(&mut self) -> Decoded<u32> {
        u32::try_from(self.var()?).map_err(|_| Malformed)
    }

    pub(crate) fn signed(&mut self) -> Decoded<i64> {
        let value = self.var()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn text(&mut self) -> Decoded<&'a str> {
        let count = usize::try_from(self.var()?).map_err(|_| Malformed)?;
        std::str::from_utf8(self.bytes(count)?).map_err(|_| Malformed)
    }

    /// A count of things that take at least one byte each, so that it bounds an allocation.
    pub(crate) fn count(&mut self) -> Decoded<usize> {
        let count = usize::try_from(self.var()?).map_err(|_| Malformed)?;
        if count > self.bytes.len() { Err(Malformed) } else { Ok(count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            bytes.put_var(value);
            bytes.put_signed(value.cast_signed());
            let mut take = Take::new(&bytes);
            assert_eq!(take.var(), Ok(value));
            assert_eq!(take.signed(), Ok(value.cast_signed()));
            assert!(take.rest().is_empty());
        }
    }

    #[test]
    fn refuses_what_is_cut_or_too_long() {
        assert_eq!(Take::new(&[0x80]).var(), Err(Malformed));
        assert_eq!(Take::new(&[0xff; 10]).var(), Err(Malformed));
        assert_eq!(Take::new(&[5, b'a']).text(), Err(Malformed));
        assert_eq!(Take::new(&[1, 0xff]).text(), Err(Malformed));
        assert_eq!(Take::new(&[200, 1]).count(), Err(Malformed));
    }
}
