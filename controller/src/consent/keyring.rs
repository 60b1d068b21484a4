//! Whose signatures count: ConfigMap `evergreen-approvers`, one entry a person: `<base64 key> [break-glass]`; and one for the
//! drills of each site: `drill.<site>: <base64 key> drill`.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::signature::{ED25519, UnparsedPublicKey};

use super::statement::signed_bytes;

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    key: Vec<u8>,
    /// The key of the emergency: its word alone is enough, and is told loudly.
    pub break_glass: bool,
    /// The key of a site's drills: it asks for moves of drills and has no other say.
    pub drill: bool,
}

/// People by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    people: BTreeMap<String, Person>,
    /// Entries that cannot be read, and why.
    pub wrong: Vec<String>,
}

impl Keyring {
    /// Reads the data of the ConfigMap. An entry that cannot be read counts for nothing. A key counts for one person only,
    /// or one person could be two.
    pub fn read(data: &BTreeMap<String, String>) -> Self {
        let mut ring = Self::default();
        for (name, text) in data {
            let mut words = text.split_whitespace();
            let key = words.next().and_then(|word| STANDARD.decode(word).ok()).filter(|key| key.len() == 32);
            let roles: Vec<&str> = words.collect();
            let unknown = roles.iter().find(|role| !["break-glass", "drill"].contains(*role));
            match (key, unknown) {
                (None, _) => ring.wrong.push(format!("{name}: is no base64 Ed25519 public key")),
                (_, Some(role)) => ring.wrong.push(format!("{name}: unknown role `{role}`")),
                (Some(key), None) => {
                    if let Some((other, _)) = ring.people.iter().find(|(_, known)| known.key == key) {
                        ring.wrong.push(format!("{name}: has the same key as {other}"));
                    } else {
                        let is = |role: &str| roles.contains(&role);
                        // A machine never has the word of the emergency.
                        let person = Person { key, break_glass: is("break-glass") && !is("drill"), drill: is("drill") };
                        ring.people.insert(name.clone(), person);
                    }
                }
            }
        }
        ring
    }

    /// The person who signed a text, if the signature is right.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verify(&self, signer: &str, signature: &str, text: &str) -> Result<&Person, String> {
        let person = self
            .people
            .get(signer)
            .ok_or_else(|| format!("`{signer}` has no key in ConfigMap {}", evergreen_api::names::APPROVERS))?;
        let signature = STANDARD.decode(signature).map_err(|_| "the signature is no base64".to_owned())?;
        UnparsedPublicKey::new(&ED25519, &person.key)
            .verify(&signed_bytes(text), &signature)
            .map_err(|_| format!("the signature is not that of `{signer}` over this statement"))?;
        Ok(person)
    }

    /// Names of the people.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.people.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consent::{new_key, public_key, sign};

    #[test]
    fn a_signature_counts_for_its_person_and_its_text_only() {
        let (li, wang) = (new_key().unwrap(), new_key().unwrap());
        let ring = Keyring::read(&BTreeMap::from([
            ("li".to_owned(), public_key(&li).unwrap()),
            ("safe".to_owned(), format!("{} break-glass", public_key(&wang).unwrap())),
        ]));
        let signature = sign(&li, "move it").unwrap();
        assert!(!ring.verify("li", &signature, "move it").unwrap().break_glass);
        assert!(ring.verify("safe", &sign(&wang, "x").unwrap(), "x").unwrap().break_glass);
        for (signer, signature, text) in [
            ("li", &*signature, "move that"),
            ("safe", &*signature, "move it"),
            ("who", &*signature, "move it"),
            ("li", "?", "move it"),
        ] {
            assert!(ring.verify(signer, signature, text).is_err(), "{signer} {text}");
        }
    }

    #[test]
    fn one_key_is_one_person_and_what_cannot_be_read_counts_for_nothing() {
        let key = public_key(&new_key().unwrap()).unwrap();
        let ring = Keyring::read(&BTreeMap::from([
            ("a".to_owned(), key.clone()),
            ("b".to_owned(), key.clone()),
            ("c".to_owned(), "AAAA".to_owned()),
            ("d".to_owned(), format!("{} root", public_key(&new_key().unwrap()).unwrap())),
        ]));
        assert_eq!(ring.names().collect::<Vec<_>>(), ["a"]);
        assert_eq!(ring.wrong.len(), 3);
    }
}
