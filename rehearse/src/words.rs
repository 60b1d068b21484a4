//! Text for people in both languages.

use serde::{Deserialize, Serialize};

/// A language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// 简体中文.
    Zh,
}

/// One text in both languages.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Words {
    /// English.
    pub en: String,
    /// 简体中文.
    pub zh: String,
}

impl Words {
    /// The text in a language.
    pub fn pick(&self, lang: Lang) -> &str {
        match lang {
            Lang::En => &self.en,
            Lang::Zh => &self.zh,
        }
    }

    /// The same in both: names, and what a program says in one language only.
    pub fn same(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { zh: text.clone(), en: text }
    }
}

/// A text in both languages.
pub fn words(en: impl Into<String>, zh: impl Into<String>) -> Words {
    Words { en: en.into(), zh: zh.into() }
}

/// Processor time in cores, without needless digits.
pub fn cores(millis: u64) -> String {
    let text = format!("{:.2}", millis as f64 / 1000.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Memory in GiB, without needless digits.
pub fn gibibytes(bytes: u64) -> String {
    let text = format!("{:.2}", bytes as f64 / f64::from(1u32 << 30));
    format!("{} GiB", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A number with its noun in English.
pub fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// Seconds for people: `95 s`, `5 min 55 s`.
pub fn seconds(value: f64, lang: Lang) -> String {
    let whole = value.round() as u64;
    let (minutes, rest) = (whole / 60, whole % 60);
    match (lang, minutes) {
        (Lang::En, 0) if value.fract() != 0.0 && value < 20.0 => format!("{value:.1} s"),
        (Lang::Zh, 0) if value.fract() != 0.0 && value < 20.0 => format!("{value:.1} 秒"),
        (Lang::En, 0) => format!("{whole} s"),
        (Lang::Zh, 0) => format!("{whole} 秒"),
        (Lang::En, _) if rest == 0 => format!("{minutes} min"),
        (Lang::Zh, _) if rest == 0 => format!("{minutes} 分钟"),
        (Lang::En, _) => format!("{minutes} min {rest} s"),
        (Lang::Zh, _) => format!("{minutes} 分 {rest} 秒"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_no_needless_digits() {
        assert_eq!((cores(6000), cores(1500), cores(250)), ("6".into(), "1.5".into(), "0.25".into()));
        assert_eq!((gibibytes(12 << 30), gibibytes(512 << 20)), ("12 GiB".into(), "0.5 GiB".into()));
        assert_eq!((seconds(10.4, Lang::En), seconds(355.0, Lang::Zh)), ("10.4 s".into(), "5 分 55 秒".into()));
    }
}
