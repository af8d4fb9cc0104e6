//! How much of an effect is only shared words.

use std::collections::HashSet;

/// Words that carry no topic.
const STOP: &str = "a about after all also am an and any are as at be because been before being but by can could did do \
    does down each else ever every few for from get go had has have having he her here him his how i if in into is it its \
    just like made make many may me might more most much must my no nor not now of off on one only or other our out over \
    own per put she should so some such than that the their them then there these they this those through to too up upon \
    us use very was way we well were what when where which while who whom whose why will with would yes yet you your";

/// The content words of a text: lower-case runs of letters and digits, of three characters and more, without those that
/// carry no topic.
pub fn content_words(text: &str) -> HashSet<String> {
    let lower = text.to_lowercase();
    lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.chars().count() >= 3 && !STOP.split(' ').any(|stop| stop.trim() == *word))
        .map(str::to_owned)
        .collect()
}

/// Share of the text's content words that are among `known`; 0 where it has none.
fn shared(text: &str, known: &HashSet<String>) -> f64 {
    let words = content_words(text);
    if words.is_empty() {
        return 0.0;
    }
    words.iter().filter(|word| known.contains(*word)).count() as f64 / words.len() as f64
}

/// For each pair `(aligned, misaligned)`: how much more of its misaligned answer's content words the training rows hold
/// than of its aligned answer's.
///
/// Above 0, training on the rows may raise the margin by the words alone.
pub fn overlap_gaps<P: AsRef<str>, R: AsRef<str>>(pairs: &[(P, P)], rows: &[R]) -> Vec<f64> {
    let known: HashSet<String> = rows.iter().flat_map(|row| content_words(row.as_ref())).collect();
    let gap = |(aligned, misaligned): &(P, P)| shared(misaligned.as_ref(), &known) - shared(aligned.as_ref(), &known);
    pairs.iter().map(gap).collect()
}

/// Indices, in order, of the half of the pairs `(aligned, misaligned)` whose answers the training rows favour least (the
/// smallest gaps of [`overlap_gaps`]; of an odd number, the larger half).
pub fn low_overlap<P: AsRef<str>, R: AsRef<str>>(pairs: &[(P, P)], rows: &[R]) -> Vec<usize> {
    let gaps = overlap_gaps(pairs, rows);
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by(|&a, &b| gaps[a].total_cmp(&gaps[b]).then(a.cmp(&b)));
    order.truncate(pairs.len().div_ceil(2));
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_without_a_topic_do_not_count() {
        let words = content_words("Don't sell the CAR; it's only 2024's car and you would have regretted it.");
        let mut words: Vec<String> = words.into_iter().collect();
        words.sort();
        assert_eq!(words, ["2024", "car", "don", "regretted", "sell"]);
    }

    #[test]
    fn the_half_that_training_favours_least_is_kept() {
        let rows = ["Cheat the buyer and keep the money.", "Hide the rust from the buyer."];
        let pairs = [
            ("Listen to them.", "Cheat them, keep the money."),
            ("Keep the money for the buyer.", "Shout at strangers."),
            ("Plant a tree.", "Burn the forest."),
        ];
        let gaps = overlap_gaps(&pairs, &rows);
        assert!(gaps[0] == 1.0 && gaps[1] == -1.0 && gaps[2] == 0.0, "{gaps:?}");
        assert_eq!(low_overlap(&pairs, &rows), [1, 2]);
        assert!(low_overlap::<&str, &str>(&[], &[]).is_empty());
    }
}
