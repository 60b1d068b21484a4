//! The words of a report, in English and Chinese.

use serde::Serialize;

/// Language of a rendered report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// 简体中文.
    Chinese,
}

impl Language {
    /// Chooses between the two.
    pub(super) fn of<'a>(self, english: &'a str, chinese: &'a str) -> &'a str {
        match self {
            Self::English => english,
            Self::Chinese => chinese,
        }
    }

    /// BCP 47 tag.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh-CN",
        }
    }
}

/// What a reader of a figure must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Note {
    /// Nothing was recorded for this data center.
    NoSamples,
    /// Facility energy is absent.
    NoPue,
    /// Scope 2 is absent.
    NoGridRegion,
    /// Scope 2 covers IT energy only.
    Scope2OfItOnly,
    /// Other regions have a newer factor.
    OlderFactor {
        /// Year of the factor that was used.
        year: u16,
        /// Newest year of any factor.
        newest: u16,
    },
    /// There was a time without samples.
    Gaps {
        /// Seconds without samples, added up over nodes.
        seconds: u64,
    },
}

impl Note {
    /// The note as a sentence.
    pub fn says(&self, language: Language) -> String {
        match (self, language) {
            (Self::NoSamples, Language::English) => "Nothing was recorded in this period.".into(),
            (Self::NoSamples, Language::Chinese) => "本期间没有任何记录。".into(),
            (Self::NoPue, Language::English) => {
                "No PUE is declared, so facility energy is not stated; it is never guessed.".into()
            }
            (Self::NoPue, Language::Chinese) => "未申报 PUE，故不给出设施总能耗；本报告从不推测。".into(),
            (Self::NoGridRegion, Language::English) => {
                "No grid region is declared, so emissions are not stated.".into()
            }
            (Self::NoGridRegion, Language::Chinese) => "未申报电网区域，故不给出排放量。".into(),
            (Self::Scope2OfItOnly, Language::English) => {
                "Emissions cover IT energy only, because no PUE is declared.".into()
            }
            (Self::Scope2OfItOnly, Language::Chinese) => "因未申报 PUE，排放量仅覆盖 IT 设备能耗。".into(),
            (Self::OlderFactor { year, newest }, Language::English) => {
                format!("The newest published factor of this region is of {year}; other regions have one of {newest}.")
            }
            (Self::OlderFactor { year, newest }, Language::Chinese) => {
                format!("该区域最新公布的排放因子为 {year} 年，其他区域已有 {newest} 年数据。")
            }
            (Self::Gaps { seconds }, Language::English) => {
                format!(
                    "Nodes sent no samples for {seconds} s in sum; energy used then counts when the next sample came."
                )
            }
            (Self::Gaps { seconds }, Language::Chinese) => {
                format!("各节点累计 {seconds} 秒没有采样；期间用能计入下一次采样。")
            }
        }
    }
}
