//! `evergreen-agent estimate`: one JSON object a line in, one out, in order. A line that cannot be answered gets `null`
//! watts and the reason, so that the answers stay in step with the questions.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use super::{Curve, Estimator, Machine};

/// Longest line that is read; a description has a few hundred bytes.
const MAX_LINE: u64 = 1 << 16;
/// Most loads of one question.
const MAX_LOADS: usize = 10_000;

#[derive(Debug, Deserialize)]
struct Question {
    machine: Machine,
    #[serde(default = "every_tenth")]
    loads: Vec<f64>,
    idle_w: Option<f64>,
    max_w: Option<f64>,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    watts: Option<Vec<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<Vec<[f64; 2]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_coverage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provenance: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    guessed: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    basis: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn every_tenth() -> Vec<f64> {
    (0..=10).map(|tenth| f64::from(tenth) * 10.0).collect()
}

/// Answers every line of the input; true when every line was well-formed JSON of the right form.
///
/// # Errors
/// When the input cannot be read or the output not be written.
pub fn answer_all(input: impl Read, output: &mut impl Write) -> io::Result<bool> {
    let mut input = io::BufReader::new(input);
    let mut understood = true;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let cut = line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n');
        if cut {
            skip_rest(&mut input)?;
        } else if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let answer = if cut {
            understood = false;
            Answer { error: Some(format!("the line is longer than {MAX_LINE} bytes")), ..Answer::default() }
        } else {
            match serde_json::from_slice(&line) {
                Ok(question) => answer(question),
                Err(error) => {
                    understood = false;
                    Answer { error: Some(format!("not a question: {error}")), ..Answer::default() }
                }
            }
        };
        serde_json::to_writer(&mut *output, &answer)?;
        output.write_all(b"\n")?;
        // One question at a time may be asked through a pipe: the answer must not wait for the next one.
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
    output.flush()?;
    Ok(understood)
}

fn skip_rest(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let (used, done) = buffer.iter().position(|b| *b == b'\n').map_or((buffer.len(), false), |end| (end + 1, true));
        input.consume(used);
        if done {
            return Ok(());
        }
    }
}

fn answer(question: Question) -> Answer {
    let refuse = |error: String| Answer { error: Some(error), ..Answer::default() };
    if question.loads.len() > MAX_LOADS {
        return refuse(format!("more than {MAX_LOADS} loads"));
    }
    if let Some(load) = question.loads.iter().find(|load| !(0.0..=100.0).contains(*load)) {
        return refuse(format!("load {load} is not between 0 and 100 percent"));
    }
    let estimator = Estimator::shipped();
    let curve = match (question.idle_w, question.max_w) {
        (None, None) => estimator.estimate(&question.machine),
        (Some(idle), Some(full)) => estimator.calibrated(&question.machine, idle, full),
        _ => Err(super::EstimateError::HalfCalibrated),
    };
    match curve {
        Ok(curve) => tell(curve, &question.loads),
        Err(error) => refuse(error.to_string()),
    }
}

fn tell(curve: Curve, loads: &[f64]) -> Answer {
    Answer {
        watts: Some(loads.iter().map(|load| curve.watts_at(load / 100.0)).collect()),
        interval: loads.iter().map(|load| curve.interval_at(load / 100.0)).collect(),
        interval_coverage: curve.interval.is_some().then_some(curve.coverage),
        provenance: Some(if curve.calibrated { "calibrated" } else { "estimated" }),
        family: curve.family,
        guessed: curve.guessed,
        basis: Some(curve.basis),
        error: None,
    }
}
