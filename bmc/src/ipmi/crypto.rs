//! The algorithms of IPMI 2.0 cipher suites 3 and 17. Nothing weaker: suites without integrity, without encryption, with
//! MD5 or RC4 are not spoken.

use aes::{
    Aes128,
    cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
};
use ring::hmac;
use zeroize::Zeroizing;

/// Block of AES, bytes.
pub(super) const BLOCK: usize = 16;

/// A cipher suite: authentication, integrity, encryption (IPMI 2.0, table 22-20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128: what every IPMI 2.0 BMC has to have.
    Three,
    /// RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    Seventeen,
}

impl Suite {
    /// Number in the specification.
    pub const fn number(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Seventeen => 17,
        }
    }

    /// Numbers of the three algorithms on the wire (tables 13-17 to 13-19).
    pub(super) const fn algorithms(self) -> [u8; 3] {
        match self {
            Self::Three => [1, 1, 1],
            Self::Seventeen => [3, 4, 1],
        }
    }

    fn hash(self) -> hmac::Algorithm {
        match self {
            Self::Three => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Seventeen => hmac::HMAC_SHA256,
        }
    }

    /// Length of the codes of the handshake, bytes.
    pub(super) const fn code_length(self) -> usize {
        match self {
            Self::Three => 20,
            Self::Seventeen => 32,
        }
    }

    /// Length of the integrity codes of packets, bytes.
    pub(super) const fn integrity_length(self) -> usize {
        match self {
            Self::Three => 12,
            Self::Seventeen => 16,
        }
    }

    /// HMAC over the parts.
    pub(super) fn mac(self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let mut context = hmac::Context::with_key(&hmac::Key::new(self.hash(), key));
        for part in parts {
            context.update(part);
        }
        Zeroizing::new(context.sign().as_ref().to_vec())
    }
}

/// Compares without telling by time where two codes differ.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Encrypts a payload: vector, then the data, padded with 1, 2, 3, ... and the number of those (13.29.2).
pub(super) fn encrypt(key: &[u8; BLOCK], vector: [u8; BLOCK], data: &[u8]) -> Vec<u8> {
    let cipher = Aes128::new(&(*key).into());
    let padding = (BLOCK - (data.len() + 1) % BLOCK) % BLOCK;
    let mut plain = Zeroizing::new(data.to_vec());
    plain.extend((1..=padding).map(|n| n as u8));
    plain.push(padding as u8);
    let mut sealed = vector.to_vec();
    let mut previous = vector;
    for chunk in plain.chunks_exact(BLOCK) {
        for (byte, plain) in previous.iter_mut().zip(chunk) {
            *byte ^= plain;
        }
        let mut block = previous.into();
        cipher.encrypt_block(&mut block);
        previous = block.into();
        sealed.extend_from_slice(&previous);
    }
    sealed
}

/// Decrypts a payload. None when it is not whole blocks or its padding is not what it has to be.
pub(super) fn decrypt(key: &[u8; BLOCK], sealed: &[u8]) -> Option<Vec<u8>> {
    let (blocks, rest) = sealed.as_chunks::<BLOCK>();
    let (vector, blocks) = blocks.split_first()?;
    if blocks.is_empty() || !rest.is_empty() {
        return None;
    }
    let cipher = Aes128::new(&(*key).into());
    let mut previous = *vector;
    let mut plain = Vec::with_capacity(blocks.len() * BLOCK);
    for chunk in blocks {
        let mut block = (*chunk).into();
        cipher.decrypt_block(&mut block);
        let block: [u8; BLOCK] = block.into();
        plain.extend(block.iter().zip(previous).map(|(byte, before)| byte ^ before));
        previous = *chunk;
    }
    let padding = usize::from(plain.pop()?);
    let data = plain.len().checked_sub(padding)?;
    let pads = plain.get(data..)?;
    // The last block alone holds padding; some BMCs fill it with other bytes, so that only its length is checked.
    if padding >= BLOCK || pads.len() != padding {
        return None;
    }
    plain.truncate(data);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    /// First block of the CBC-AES128 example of NIST SP 800-38A, F.2.1.
    #[test]
    fn the_first_block_is_that_of_the_published_example() {
        let key: [u8; 16] = bytes("2b7e151628aed2a6abf7158809cf4f3c").try_into().unwrap();
        let vector: [u8; 16] = bytes("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let sealed = encrypt(&key, vector, &bytes("6bc1bee22e409f96e93d7e117393172a"));
        assert_eq!(&sealed[16..32], bytes("7649abac8119b246cee98e9b12e9197d"));
    }

    /// RFC 2202 and RFC 4231, test case 2 of each.
    #[test]
    fn the_codes_are_those_of_the_published_examples() {
        let data: [&[u8]; 2] = [b"what do ya want ", b"for nothing?"];
        assert_eq!(*Suite::Three.mac(b"Jefe", &data), bytes("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"));
        assert_eq!(
            *Suite::Seventeen.mac(b"Jefe", &data),
            bytes("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        );
    }

    proptest! {
        #[test]
        fn what_was_encrypted_is_decrypted(key: [u8; 16], vector: [u8; 16], data in proptest::collection::vec(any::<u8>(), 0..80)) {
            let sealed = encrypt(&key, vector, &data);
            prop_assert_eq!(sealed.len() % BLOCK, 0);
            prop_assert_eq!(decrypt(&key, &sealed), Some(data));
        }

        #[test]
        fn garbage_is_never_more_than_refused(key: [u8; 16], sealed in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(data) = decrypt(&key, &sealed) {
                prop_assert!(data.len() < sealed.len());
            }
        }
    }
}
