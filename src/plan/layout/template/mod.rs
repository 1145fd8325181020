//! Keys of a Secret that its owner words: texts in Jinja's language, filled in with what the layout holds.
//!
//! # Guarantees
//!
//! * A template sees the keys of its own layout and the object's name and namespace, nothing else: no file, no network, no clock, no chance.
//! * It ends: work and memory are bounded by one budget ("fuel"), whatever it says; [`language`] keeps out what that would not bound.
//! * What goes wrong is told by the template's key, a line and a kind of mistake, never by a value.
//! * Nothing of the engine is kept for an object: a template is read when it is needed.

mod language;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Template, UndefinedBehavior, Value};

use self::language::{DEPTH, Fault, Use};
use super::super::Problem;
use crate::{
    model::{ExposeSecret, SecretText},
    reasons::Reason,
};

/// The budget of one template: so many steps, or 64 times as many bytes, 1.2 MiB (tried: 15 ms at most).
const FUEL: u64 = 20_000;
/// What one template may make.
const OUTPUT: usize = 64 * 1024;
/// What all templates of one Secret may make: the API server takes no Secret above 1 MiB, and the layout needs room, too.
const OUTPUTS: usize = 512 * 1024;
/// Names besides the keys of the layout.
const VALUES: &str = "values";
const METADATA: &str = "metadata";
const METADATA_NAMES: [&str; 2] = ["name", "namespace"];

static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine.set_fuel(Some(FUEL));
    engine.set_recursion_limit(DEPTH);
    engine.set_syntax(language::syntax());
    engine.add_filter("b64encode", |text: &str| STANDARD.encode(text));
    engine
});

/// The templates of one Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Templates {
    /// Key in the Secret to text.
    pub texts: BTreeMap<String, String>,
    /// `metadata.name` of the object.
    pub name: String,
    /// `metadata.namespace` of the object.
    pub namespace: String,
}

impl Templates {
    /// The keys that they make.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        self.texts.keys().cloned()
    }

    /// What is wrong with them, found without any real value. `known` are all names that the layout may have, `specimens` values under
    /// those that it has here.
    #[must_use]
    pub fn flaw(
        &self,
        known: &BTreeSet<String>,
        renamed: &BTreeMap<String, String>,
        specimens: &BTreeMap<String, SecretText>,
    ) -> Option<Problem> {
        if self.texts.is_empty() {
            return None;
        }
        let taken = |key: &&String| known.contains(*key) || renamed.values().any(|name| name == *key);
        if let Some(key) = self.texts.keys().find(taken) {
            return Some(problem(key, "has the name of a key of the layout, which stands in the Secret anyway: give it another"));
        }
        let of_a_name = self.texts.iter().find_map(|(key, text)| unknown_name(text, known).map(|said| problem(key, said)));
        of_a_name.or_else(|| self.render(specimens).err())
    }

    /// What they make of the values of a layout.
    ///
    /// # Errors
    ///
    /// When one of them cannot be filled in; by its key and a line.
    pub fn render(&self, values: &BTreeMap<String, SecretText>) -> Result<BTreeMap<String, SecretText>, Problem> {
        let mut made: BTreeMap<String, SecretText> = BTreeMap::new();
        if self.texts.is_empty() {
            return Ok(made);
        }
        let context = self.context(values);
        let mut size = 0;
        for (key, text) in &self.texts {
            let template = parsed(text).map_err(|said| problem(key, said))?;
            let output = template.render(context.clone()).map(SecretText::from);
            let output = output.map_err(|error| problem(key, absent(text, &error, values).unwrap_or_else(|| explained(&error))))?;
            let length = output.expose_secret().len();
            size += length;
            if length > OUTPUT {
                return Err(problem(key, format!("makes more than {OUTPUT} bytes")));
            }
            if size > OUTPUTS {
                return Err(problem(key, format!("makes, with those before it, more than {OUTPUTS} bytes")));
            }
            made.insert(key.clone(), output);
        }
        Ok(made)
    }

    fn context(&self, values: &BTreeMap<String, SecretText>) -> Value {
        let all = || values.iter().map(|(key, value)| (key.as_str(), Value::from(value.expose_secret())));
        let metadata = METADATA_NAMES.into_iter().zip([self.name.as_str(), self.namespace.as_str()]);
        let more = [(VALUES, Value::from_pairs(all())), (METADATA, Value::from_pairs(metadata))];
        Value::from_pairs(all().chain(more))
    }
}

/// A template, ready to be filled in; or what is wrong with its text.
fn parsed(text: &str) -> Result<Template<'_, '_>, String> {
    language::names(text).map_err(|fault| match fault {
        Fault::Syntax(error) => explained(&error),
        Fault::Refused(said) => said,
    })?;
    ENGINE.template_from_named_str("", text).map_err(|error| explained(&error))
}

/// A name that no layout key and no field has, wherever in the text it stands: also where the specimens do not lead.
fn unknown_name(text: &str, known: &BTreeSet<String>) -> Option<String> {
    let is_known = |name: &str| match name.split_once('.') {
        Some((VALUES, key)) => known.contains(key),
        Some((METADATA, field)) => METADATA_NAMES.contains(&field),
        Some((head, _)) => known.contains(head),
        None => known.contains(name) || [VALUES, METADATA].contains(&name),
    };
    let Use { name, line } = language::names(text).ok()?.into_iter().find(|found| !is_known(&found.name))?;
    let name: String = name.chars().take(64).collect();
    let names = known.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    Some(format!(
        "names {name:?} in line {line}, which is no key of this layout; its keys are {names} (also as {VALUES}[\"KEY\"]), and besides there are \
         {METADATA}.name and {METADATA}.namespace"
    ))
}

/// A key that this layout may have and does not have here, where that is what a template goes wrong with.
fn absent(text: &str, error: &Error, values: &BTreeMap<String, SecretText>) -> Option<String> {
    if error.kind() != ErrorKind::UndefinedError {
        return None;
    }
    let is_absent = |used: &Use| {
        let is_a_key = ![VALUES, METADATA].contains(&key_of(used));
        is_a_key && Some(used.line) == error.line() && !values.contains_key(key_of(used))
    };
    let used: Vec<Use> = language::names(text).ok()?.into_iter().filter(is_absent).collect();
    let (first, line) = used.first().map(|used| (key_of(used), used.line))?;
    // One of them may be asked for properly: which one is meant, the engine does not say.
    let names: BTreeSet<String> = used.iter().map(|used| format!("{:?}", key_of(used))).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(" or ");
    Some(format!(
        "uses {names} in line {line}, which this layout does not have here: leave it out, or write {{% if {first} is defined %}} before it"
    ))
}

fn key_of(used: &Use) -> &str {
    used.name.split_once('.').map_or(used.name.as_str(), |(head, key)| if head == VALUES { key } else { head })
}

/// A mistake by its kind and line: the engine's own words may quote values.
fn explained(error: &Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    match error.kind() {
        ErrorKind::SyntaxError => format!("has a syntax error{line}"),
        ErrorKind::UndefinedError => format!("uses something{line} that is not there"),
        ErrorKind::OutOfFuel => format!("does more work than a template may; it was stopped{line}"),
        kind => format!("goes wrong{line}: {kind}"),
    }
}

fn problem(key: &str, said: impl std::fmt::Display) -> Problem {
    Problem::new(Reason::InvalidSpec, format!("secret.template: the template of {key:?} {said}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// What no message may show.
    const VALUE: &str = "cafec0de-value";

    fn values() -> BTreeMap<String, SecretText> {
        let of = |(key, value): (&str, &str)| (key.to_owned(), SecretText::from(value));
        [("clientId", "id"), ("client-id", "dashed"), ("secret", VALUE), ("scope", "a b")].map(of).into()
    }

    fn of(text: &str) -> Templates {
        let texts = [("file".to_owned(), text.to_owned())].into();
        Templates { texts, name: "storefront".into(), namespace: "shop".into() }
    }

    fn known() -> BTreeSet<String> {
        values().into_keys().chain(["redirectUri".to_owned()]).collect()
    }

    fn made(text: &str) -> String {
        let made = of(text).render(&values()).unwrap_or_else(|problem| panic!("{text}: {}", problem.message));
        made["file"].expose_secret().to_owned()
    }

    fn flaw(text: &str) -> Option<String> {
        let flaw = of(text).flaw(&known(), &BTreeMap::new(), &values())?;
        assert_eq!(flaw.reason, Reason::InvalidSpec);
        assert!(!flaw.message.contains(VALUE) && flaw.message.contains(r#"the template of "file""#), "{}", flaw.message);
        Some(flaw.message)
    }

    #[test]
    fn a_template_is_filled_in_with_the_keys_of_the_layout_and_the_objects_name() {
        for (text, expected) in [
            ("id={{ clientId }}\n", "id=id\n"),
            ("{{ values['client-id'] }} {{ values[\"client-id\"] }} {{ values.scope }}", "dashed dashed a b"),
            ("{{ metadata.namespace }}/{{ metadata.name }}", "shop/storefront"),
            ("{% for word in scope|split(' ') %}[{{ word }}]{% if not loop.last %},{% endif %}{% endfor %}", "[a],[b]"),
            (
                "{% for key, value in values|items %}{% if key != 'secret' %}{{ key }}={{ value }};{% endif %}{% endfor %}",
                "client-id=dashed;clientId=id;scope=a b;",
            ),
            ("{% if redirectUri is defined %}x{% elif clientId == 'id' and 'a' in scope %}y{% else %}z{% endif %}", "y"),
            ("{{ redirectUri|default('none') }}", "none"),
            ("{{ (clientId ~ ':x')|b64encode }}", "aWQ6eA=="),
            ("{\"id\": {{ clientId|tojson }}}", r#"{"id": "id"}"#),
            ("{{ 'a b&c'|urlencode }}", "a%20b%26c"),
            ("<{{ '<&>' }}>", "<<&>>"),
            ("{% raw %}{{ clientId }}{% endraw %}", "{{ clientId }}"),
            ("{% set id = clientId|upper %}{{ id }}{# not shown #}", "ID"),
            ("{{ scope|split(' ')|join('+') }} {{ (scope|split(' '))[1] }} {{ scope|replace(' ', ',')|length }}", "a+b b 3"),
            ("{{ 'x' if scope is startingwith('a') else 'y' }}{{ \"x\ny\"|indent(2) }}", "xx\n  y"),
            ("{%- if true -%} a {%- endif -%} b", "ab"),
            ("", ""),
            ("  two\n\n", "  two\n\n"),
            ("no braces, {no} %sense%", "no braces, {no} %sense%"),
        ] {
            assert_eq!(made(text), expected, "{text}");
            assert_eq!(flaw(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_key_and_line_and_never_by_a_value() {
        for (text, said) in [
            ("a\n{{ clientId", "has a syntax error in line 2"),
            ("a\n{% if clientId %}", "has a syntax error in line 2"),
            ("a\n{{ 'open }}", "has a syntax error in line 2"),
            ("a\n\n{{ clientID }}", r#"names "clientID" in line 3, which is no key of this layout; its keys are client-id, clientId"#),
            ("{% if false %}\n{{ nonsense }}{% endif %}", r#"names "nonsense" in line 2"#),
            ("{{ values.nonsense }}", r#"names "values.nonsense" in line 1"#),
            ("{{ metadata.uid }}", r#"names "metadata.uid" in line 1"#),
            ("{% for x in y %}{% endfor %}", r#"names "y" in line 1"#),
            ("\n{{ values['nonsense'] }}", "uses something in line 2 that is not there"),
            ("{{ values[secret] }}", "uses something in line 1 that is not there"),
            ("{{ redirectUri }}", r#"uses "redirectUri" in line 1, which this layout does not have here"#),
            ("\n{{ values.redirectUri }}", r#"uses "redirectUri" in line 2"#),
            ("{{ secret.nonsense }}", "uses something in line 1 that is not there"),
            ("{{ later }}{% set later = secret %}", "uses something in line 1 that is not there"),
            ("{{ secret|replace }}", "goes wrong in line 1: missing argument"),
            ("{{ secret|upper(secret) }}", "goes wrong in line 1: too many arguments"),
            ("{{ secret|indent(secret) }}", "goes wrong in line 1: invalid operation"),
        ] {
            let message = flaw(text).unwrap_or_else(|| panic!("{text} is no flaw"));
            assert!(message.contains(said), "{text}: {message}");
        }
    }

    /// What templates do not have, and why: what calls, calculates, or makes values larger than their text costs more than the budget says.
    #[test]
    fn only_a_part_of_the_language_is_spoken() {
        for (text, said) in [
            ("\n{{ debug() }}", "uses in line 2 what templates here do not have: functions and methods"),
            ("{% for i in range(100000) %}{{ i }}{% endfor %}", "functions and methods"),
            ("{{ secret.upper() }}", "functions and methods"),
            ("{{ values|items() }}", ""),
            ("{{ secret|nonsense }}", "the filter nonsense"),
            ("{{ secret|pprint }}", "the filter pprint"),
            ("{{ secret|map('upper')|list }}", "the filter list"),
            ("{{ '%100000000s'|format(secret) }}", "the filter format"),
            ("{{ secret is nonsense }}", "the test nonsense"),
            ("{{ secret|tojson(100000000) }}", "tojson with more than a value"),
            ("{{ secret|tojson(indent=100000000) }}", "tojson with more than a value"),
            ("{{ secret|join(*values) }}", "arguments like *a"),
            ("{{ 'x' * 100000000 }}", "arithmetic"),
            ("{{ 10 ** 10000000 }}", "arithmetic"),
            ("{{ -1 }}", "arithmetic"),
            ("{{ secret + secret }}", "arithmetic (~ joins texts)"),
            ("{{ [1] }}", "lists"),
            ("{{ (1, 2) }}", "lists"),
            ("{% set a = 1, 2 %}", "lists"),
            ("{% set a.b = 1 %}", "given to something else than a name"),
            ("{{ {1: 2} }}", "maps"),
            ("{{ secret[1:] }}", "parts like [1:2]"),
            ("{% with a = 1 %}{% endwith %}", "{% with %}"),
            ("{% set a %}{% endset %}", "{% set %} with a block"),
            ("{% filter upper %}{% endfilter %}", "{% filter %}"),
            ("{% autoescape 'html' %}{% endautoescape %}", "{% autoescape %}"),
            ("{% do debug() %}", "{% do %}"),
            ("{% for a in values recursive %}{% endfor %}", "{% for … recursive %}"),
            ("{% include 'other' %}", "has a syntax error in line 1"),
            ("{% import 'other' as o %}", "has a syntax error in line 1"),
            ("{% extends 'other' %}", "has a syntax error in line 1"),
            ("{% macro m() %}{% endmacro %}", "has a syntax error in line 1"),
        ] {
            let message = flaw(text).unwrap_or_default();
            assert!(message.contains(said), "{text}: {message}");
        }
    }

    /// As long as a spec allows, with as many of `part` as there is room for.
    fn full_of(begin: &str, part: &str, middle: &str, end_of_part: &str, end: &str) -> String {
        let count = (8192 - begin.len() - middle.len() - end.len()) / (part.len() + end_of_part.len());
        format!("{begin}{}{middle}{}{end}", part.repeat(count), end_of_part.repeat(count))
    }

    #[test]
    fn whatever_a_template_asks_for_it_ends_soon_and_small() {
        let doubled = |times: usize| format!("{{% set a = secret %}}{}", "{% set a = a ~ a %}".repeat(times));
        let of_many = |body: &str| {
            format!("{}{{% for x in a|split('a') %}}{{% for y in a|split('f') %}}{body}{{% endfor %}}{{% endfor %}}", doubled(10))
        };
        for (text, said) in [
            (doubled(70).as_str(), "does more work than a template may"),
            (&of_many(""), "does more work"),
            (&of_many("{{ a }}"), "does more work"),
            (&of_many("{% if a ~ x == a ~ y or 'nowhere' in a %}{% endif %}"), "does more work"),
            (
                &format!("{{% for i in 'x'|split('') %}}{}{{% endfor %}}", "{% for i in values %}".repeat(20) + &"{% endfor %}".repeat(20)),
                "does more work",
            ),
            (&format!("{{{{ secret{} }}}}", "|replace('a','aaaaaaaaaaaaaaaa')".repeat(13)), "does more work"),
            (&format!("{{{{ secret{} }}}}", "|replace('','aaaaaaaaaaaaaaaa')".repeat(13)), "does more work"),
            (&format!("{{{{ secret|replace('e','%'){} }}}}", "|urlencode|replace('%','%%%%%%%%%%%%')".repeat(9)), "does more work"),
            ("{{ 'x'|indent(100000000, true) }}", "does more work"),
            (&format!("{}{{{{ a }}}}", doubled(13)), "makes more than 65536 bytes"),
            (&full_of("{{ 1", "+1", "", "", "}}"), "more than 100 words and signs between two braces"),
            (&full_of("{{ 1", "~1", "", "", "}}"), "more than 100 words"),
            (&full_of("{{", "-", "1", "", "}}"), "more than 100 words"),
            (&full_of("{{ values", ".a", "", "", "}}"), "more than 100 words"),
            (&full_of("{{ secret", "|upper", "", "", "}}"), "more than 100 words"),
            (&full_of("{{", "(", "1", ")", "}}"), "more than 24 brackets in each other"),
            (&full_of("{{", "[", "", "", ""), "more than 24 brackets"),
            (&full_of("{{ ", "d(", "", "", ""), "more than 24 brackets"),
            (&full_of("", "{% if true %}", "", "{% endif %}", ""), "more than 24 blocks in each other"),
            (&full_of("", "{%- if true -%}", "", "{% endif %}", ""), "more than 24 blocks"),
            (&full_of("", "{% for a in values %}", "", "{% endfor %}", ""), "more than 24 blocks"),
            (&full_of("", "{% with %}", "", "{% endwith %}", ""), "more than 24 blocks"),
            (&full_of("", "{% filter upper %}", "", "{% endfilter %}", ""), "more than 24 blocks"),
            (&full_of("", "{% autoescape false %}", "", "{% endautoescape %}", ""), "more than 24 blocks"),
            (&full_of("", "{% set a %}", "", "{% endset %}", ""), "more than 600 words and signs in its braces"),
            (&full_of("{% if false %}", "{% elif false %}", "", "", "{% endif %}"), "more than 600 words"),
            (&full_of("", "{{ clientId }}{# }} #}", "", "", ""), "more than 600 words"),
        ] {
            let begun = Instant::now();
            let message = flaw(text).unwrap_or_else(|| panic!("{} is accepted", &text[..text.len().min(60)]));
            assert!(message.contains(said), "{}: {message}", &text[..text.len().min(60)]);
            // Nothing is optimized here: it takes a tenth of that where it matters.
            assert!(begun.elapsed() < Duration::from_secs(1), "{}: {:?}", &text[..text.len().min(60)], begun.elapsed());
        }
    }

    /// What is deepest within the limits, refused or not, in a thread with half of a worker's stack.
    #[test]
    fn what_the_limits_let_through_overflows_no_stack() {
        // 97 tokens are left besides braces and one name, some 570 in all.
        let tag = |part: &str, tokens: usize| format!("{{{{ clientId{} }}}}", part.repeat(97 / tokens));
        let block = |begin: &str, part: &str, tokens: usize, end: &str| format!("{begin}{}{end}", part.repeat(570 / tokens));
        let deep = |begin: &str, middle: &str, end: &str| format!("{}{middle}{}", begin.repeat(24), end.repeat(24));
        let texts = vec![
            tag("~1", 2),
            tag(" ~ clientId", 2),
            tag("+1", 2),
            tag("|upper", 2),
            tag(".a", 2),
            tag("[0]", 3),
            tag("[0:]", 4),
            tag("()", 2),
            tag(" and clientId", 2),
            tag(" or clientId", 2),
            tag(" is string", 2),
            tag(" in clientId", 2),
            tag(" < clientId", 2),
            tag(" if clientId else clientId", 4),
            tag("**2", 2),
            format!("{{{{ {}1 }}}}", "-".repeat(97)),
            format!("{{{{ {}1 }}}}", "not ".repeat(97)),
            format!("{{{{ {} }}}}", deep("(", "1", ")")),
            format!("{{{{ {} }}}}", deep("[", "1", "]")),
            format!("{{{{ {} }}}}", format!("{}1{}", "{1:".repeat(24), "}".repeat(24))),
            format!("{{{{ {}1{} }}}}", "1 if(".repeat(15), ")else 1".repeat(15)),
            format!("{{{{ {}1{} }}}}", "1|replace(".repeat(13), ",1)".repeat(13)),
            block("{% if false %}", "{% elif false %}", 4, "{% endif %}"),
            format!("{}{}", "{% set a %}".repeat(80), "{% endset %}".repeat(80)),
            deep("{% if true %}", "", "{% endif %}"),
            deep("{% with %}", "", "{% endwith %}"),
            deep("{% filter upper %}", "", "{% endfilter %}"),
            deep("{% for a in scope|split('') %}", "", "{% endfor %}"),
        ];
        let tried = std::thread::Builder::new().stack_size(1024 * 1024).spawn(move || {
            let of_the_limits = |said: String| said.contains("words and signs") || said.contains("in each other");
            texts.into_iter().filter(|text| flaw(text).is_some_and(of_the_limits)).collect::<Vec<_>>()
        });
        let stopped = tried.expect("a thread").join().expect("no stack overflows");
        assert_eq!(stopped, Vec::<String>::new(), "what uses the limits up is within them");
    }

    proptest::proptest! {
        /// A panic of the engine would end the operator.
        #[test]
        fn no_row_of_words_and_signs_makes_the_engine_panic(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "{{", "}}", "{%", "%}", "{#", "#}", "{%-", "-%}", "(", ")", "[", "]", "{", "}", "|", "~", ".", ",", ":", "=", "==", "<", "*",
                    "-", "'", "\"", "\\", "\n", "é", "0", "18446744073709551615", "1e308", "'x'", "secret", "values", "loop", "set a =", "for a in", "endfor",
                    "if", "elif", "else", "endif", "in", "is", "not", "and", "raw", "endraw", "default", "split", "join", "items", "tojson", "first",
                ]),
                0..60,
            )
        ) {
            drop(flaw(&words.join(" ")));
            drop(flaw(&format!("{{{{ {} }}}}", words.join(" "))));
        }
    }

    #[test]
    fn all_templates_together_are_bounded() {
        let text = format!("{{% set a = 'x' %}}{}{{{{ a }}}}", "{% set a = a ~ a %}".repeat(16));
        let texts = (0..16).map(|number| (format!("file-{number:02}"), text.clone())).collect();
        let all = Templates { texts, ..Templates::default() };
        let problem = all.render(&values()).expect_err("a MiB is too much");
        assert!(problem.message.contains(r#""file-08" makes, with those before it, more than 524288 bytes"#), "{}", problem.message);
    }

    #[test]
    fn a_key_of_the_layout_is_refused_whatever_its_name_is_now() {
        let renamed = [("clientId".to_owned(), "file".to_owned())].into();
        let of_a_new_name = of("x").flaw(&known(), &renamed, &values());
        assert!(of_a_new_name.is_some_and(|problem| problem.message.contains("has the name of a key of the layout")));
        let texts = [("clientId".to_owned(), "x".to_owned())].into();
        let of_an_old_name = Templates { texts, ..Templates::default() }.flaw(&known(), &renamed, &values());
        assert!(of_an_old_name.is_some_and(|problem| problem.message.contains(r#"the template of "clientId""#)));
    }
}
