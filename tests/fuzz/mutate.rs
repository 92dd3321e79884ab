//! Mutations of bytes and of JSON values. Most mutated inputs still parse.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

/// Separator of the parts of an input. Each part is mutated on its own.
pub(crate) const PART: &[u8] = b"\n---\n";

pub(crate) struct Mutator {
    random: StdRng,
    corpus: Vec<Vec<u8>>,
}

const WORDS: &[&str] = &[
    "",
    "0",
    "-0",
    "-1",
    "1",
    "00",
    "1e19",
    "1e28",
    "1e308",
    "1e400",
    "-1e28",
    "NaN",
    "inf",
    "0.0000000000000000000000000001",
    "79228162514264337593543950335",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "4294967295",
    "2147483648",
    "1E",
    "1Ei",
    "9999999999999Ei",
    "-1Gi",
    "1970-01-01 00:00:00",
    "0000-00-00 00:00:00",
    "9999-12-31T23:59:59Z",
    "-009999-01-01T00:00:00Z",
    "2026-01-01T00:00:00+25:59",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "999999999h",
    "9223372036854775807s",
    "true",
    "null",
    "\u{0}",
    "é\u{202e}😀",
    "../../x?y#z",
    "%",
    "{}",
    "vpsie://",
    "vpsie-autoscaler-pending://",
    "web/ams1/small/on-demand",
    "quota exceeded",
    "out of stock",
    "has same selected Size",
    "Please authenticate",
    "not found",
];

impl Mutator {
    pub(crate) fn new(seed: u64, corpus: Vec<Vec<u8>>) -> Self {
        assert!(!corpus.is_empty());
        Self { random: StdRng::seed_from_u64(seed), corpus }
    }

    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.random.random_range(0..bound) }
    }

    fn word(&mut self) -> String {
        if self.below(60) == 0 {
            return "x".repeat(1 << self.below(17));
        }
        let at = self.below(WORDS.len());
        WORDS[at].to_owned()
    }

    /// An input with one to six mutations.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len());
        let mut input = self.corpus[at].clone();
        for _ in 0..=self.below(6) {
            input = if self.below(4) > 0 { self.mutate_json(&input) } else { self.mutate_bytes(input) };
        }
        input.truncate(1 << 20);
        input
    }

    /// Mutates one part of the input as JSON. A line before the JSON is kept; a part without JSON is mutated
    /// as bytes.
    fn mutate_json(&mut self, input: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(input).into_owned();
        let part = std::str::from_utf8(PART).unwrap();
        let mut parts: Vec<String> = text.split(part).map(str::to_owned).collect();
        if self.below(20) == 0 {
            let other = parts[self.below(parts.len())].clone();
            parts.push(other);
        }
        let at = self.below(parts.len());
        let (head, body) = match parts[at].split_once('\n') {
            Some((head, body)) if !head.starts_with(['{', '[']) => (format!("{head}\n"), body.to_owned()),
            _ => (String::new(), parts[at].clone()),
        };
        let Ok(mut value) = serde_json::from_str::<Value>(&body) else {
            return self.mutate_bytes(input.to_vec());
        };
        self.mutate_value(&mut value, 0);
        parts[at] = format!("{head}{value}");
        parts.join(part).into_bytes()
    }

    fn mutate_value(&mut self, value: &mut Value, depth: usize) {
        let deeper = depth < 12 && self.below(8) > 0;
        match value {
            Value::Object(map) if !map.is_empty() && deeper => {
                let at = self.below(map.len());
                let key = map.keys().nth(at).cloned().unwrap();
                match self.below(14) {
                    0 => drop(map.remove(&key)),
                    1 => {
                        let value = map.remove(&key).unwrap();
                        let word = self.word();
                        map.insert(word, value);
                    }
                    2 => {
                        let other = map.keys().nth(self.below(map.len())).cloned().unwrap();
                        let copy = map[&other].clone();
                        map.insert(key, copy);
                    }
                    _ => self.mutate_value(map.get_mut(&key).unwrap(), depth + 1),
                }
            }
            Value::Array(list) if !list.is_empty() && deeper => {
                let at = self.below(list.len());
                match self.below(10) {
                    0 => drop(list.remove(at)),
                    1 => {
                        let copy = list[at].clone();
                        let times = 1 << self.below(6);
                        list.extend(std::iter::repeat_n(copy, times));
                    }
                    2 => list.reverse(),
                    _ => self.mutate_value(&mut list[at], depth + 1),
                }
            }
            other => *other = self.value(),
        }
    }

    fn value(&mut self) -> Value {
        match self.below(14) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!([]),
            3 => json!({}),
            4 => json!([self.word(), null, {}]),
            5 => json!(self.below(5)),
            6 => json!(self.random.random::<i64>()),
            7 => json!(self.random.random::<f64>() * 1e30),
            8 => {
                let word = self.word();
                serde_json::from_str(&word).unwrap_or(Value::String(word))
            }
            _ => Value::String(self.word()),
        }
    }

    fn mutate_bytes(&mut self, mut input: Vec<u8>) -> Vec<u8> {
        let at = self.below(input.len());
        let length = 1 + self.below(16);
        let end = (at + length).min(input.len());
        match self.below(7) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = self.random.random(),
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            4 => {
                let word = self.word();
                input.splice(at..at, word.into_bytes());
            }
            5 => {
                let other = self.below(self.corpus.len());
                let other = self.corpus[other].clone();
                let from = self.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let noise: Vec<u8> = (0..length).map(|_| self.random.random()).collect();
                input.splice(at..at, noise);
            }
        }
        input
    }
}
