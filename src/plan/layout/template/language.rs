//! The part of Jinja that templates have: what fills in, chooses and repeats; nothing that calls, calculates or makes lists and maps.
//!
//! The engine's budget does not hold for all of Jinja (tried): `[a, a]` thirty times over makes a value of a billion parts that costs thirty
//! steps, a `namespace` can hold itself, and `{{ 1+1+1…` or `{% elif %}{% elif %}…` overflow a stack. So a text is read here first, and what is
//! not listed does not reach the engine.

use minijinja::{
    Error,
    machinery::{
        Span, Token,
        ast::{BinOpKind, CallArg, Expr, Stmt, UnaryOpKind},
        parse, tokenize,
    },
    syntax::SyntaxConfig,
};

/// The filters; `b64encode` is ours.
const FILTERS: [&str; 17] = [
    "b64encode",
    "count",
    "d",
    "default",
    "first",
    "indent",
    "items",
    "join",
    "last",
    "length",
    "lower",
    "replace",
    "split",
    "tojson",
    "trim",
    "upper",
    "urlencode",
];
/// The tests.
const TESTS: [&str; 9] = ["defined", "undefined", "startingwith", "endingwith", "eq", "ne", "in", "lower", "upper"];

/// How deep blocks, and brackets between two braces, may lie in each other.
pub(super) const DEPTH: usize = 24;
/// So many tokens (words and signs) may lie between two braces, and in all braces of one template. What these limits and [`DEPTH`] let
/// through fits a stack of 1 MiB where nothing is optimized (tested); a worker has 2 MiB.
const TOKENS_OF_A_TAG: usize = 100;
const TOKENS: usize = 600;

/// Jinja's own, but a file is what stands there, its last line included.
pub(super) fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default()
}

/// What is wrong with a text.
pub(super) enum Fault {
    /// It is no Jinja.
    Syntax(Error),
    /// It is more, or something else, than templates may be; in words that follow its name.
    Refused(String),
}

/// A name that a text takes from outside, `values.KEY` and `metadata.FIELD` as a whole, and the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) name: String,
    pub(super) line: usize,
}

/// Sees that a text keeps to the language, and tells the names that it uses.
pub(super) fn names(text: &str) -> Result<Vec<Use>, Fault> {
    Extent::within_limits(text).map_err(Fault::Refused)?;
    let tree = parse(text, "", syntax()).map_err(Fault::Syntax)?;
    let mut reading = Reading::default();
    reading.statement(&tree).map_err(Fault::Refused)?;
    let Reading { mut uses, assigned } = reading;
    uses.retain(|found| !assigned.contains(&found.name.split('.').next().unwrap_or_default()));
    Ok(uses)
}

/// How much of the engine's recursion a text asks for, counted before the engine sees it.
#[derive(Default)]
struct Extent {
    tokens: usize,
    tokens_of_this_tag: usize,
    brackets: usize,
    blocks: usize,
    is_statement: bool,
}

impl Extent {
    fn within_limits(text: &str) -> Result<(), String> {
        let mut extent = Self::default();
        for token in tokenize(text, false, syntax()) {
            // What is no token is told, with its line, by the engine.
            let Ok((token, span)) = token else { break };
            extent.take(&token);
            let limit = if extent.tokens_of_this_tag > TOKENS_OF_A_TAG {
                format!("more than {TOKENS_OF_A_TAG} words and signs between two braces")
            } else if extent.tokens > TOKENS {
                format!("more than {TOKENS} words and signs in its braces")
            } else if extent.brackets > DEPTH {
                format!("more than {DEPTH} brackets in each other")
            } else if extent.blocks > DEPTH {
                format!("more than {DEPTH} blocks in each other")
            } else {
                continue;
            };
            return Err(format!("has, by line {}, {limit}", span.start_line));
        }
        Ok(())
    }

    fn take(&mut self, token: &Token<'_>) {
        if matches!(token, Token::TemplateData(_)) {
            return;
        }
        self.tokens += 1;
        self.tokens_of_this_tag += 1;
        let names_a_block = self.is_statement && self.tokens_of_this_tag == 2;
        match token {
            Token::VariableStart | Token::BlockStart => {
                (self.tokens_of_this_tag, self.brackets) = (1, 0);
                self.is_statement = matches!(token, Token::BlockStart);
            }
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => self.brackets += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => self.brackets = self.brackets.saturating_sub(1),
            Token::Ident(name) if names_a_block && name.starts_with("end") => self.blocks = self.blocks.saturating_sub(1),
            // Whatever else begins a block is refused below; until then it may lie as deep as the engine's parser lets it.
            Token::Ident(name) if names_a_block && !["elif", "else"].contains(name) => self.blocks += usize::from(*name != "set"),
            _ => {}
        }
    }
}

/// A walk over what the engine has read of a text.
#[derive(Default)]
struct Reading<'a> {
    uses: Vec<Use>,
    /// What the text itself gives a value, wherever: the engine sees to the order.
    assigned: Vec<&'a str>,
}

impl<'a> Reading<'a> {
    fn statements(&mut self, list: &[Stmt<'a>]) -> Result<(), String> {
        list.iter().try_for_each(|statement| self.statement(statement))
    }

    fn statement(&mut self, statement: &Stmt<'a>) -> Result<(), String> {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(_) => Ok(()),
            Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            Stmt::IfCond(condition) => {
                self.expression(&condition.expr)?;
                self.statements(&condition.true_body)?;
                self.statements(&condition.false_body)
            }
            Stmt::ForLoop(repeat) if !repeat.recursive => {
                self.assigned.push("loop");
                self.target(&repeat.target)?;
                self.expression(&repeat.iter)?;
                repeat.filter_expr.iter().try_for_each(|expression| self.expression(expression))?;
                self.statements(&repeat.body)?;
                self.statements(&repeat.else_body)
            }
            Stmt::Set(set) => {
                self.target(&set.target)?;
                self.expression(&set.expr)
            }
            Stmt::ForLoop(other) => Err(left_out("{% for … recursive %}", other.span())),
            Stmt::WithBlock(other) => Err(left_out("{% with %}", other.span())),
            Stmt::SetBlock(other) => Err(left_out("{% set %} with a block", other.span())),
            Stmt::AutoEscape(other) => Err(left_out("{% autoescape %}", other.span())),
            Stmt::FilterBlock(other) => Err(left_out("{% filter %}", other.span())),
            Stmt::Do(other) => Err(left_out("{% do %}", other.span())),
        }
    }

    /// What a value is given to: a name, or several.
    fn target(&mut self, target: &Expr<'a>) -> Result<(), String> {
        match target {
            Expr::Var(name) => self.assigned.push(name.id),
            Expr::List(names) => names.items.iter().try_for_each(|name| self.target(name))?,
            Expr::Tuple(names) => names.items.iter().try_for_each(|name| self.target(name))?,
            other => return Err(left_out("a value that is given to something else than a name", other.span())),
        }
        Ok(())
    }

    fn expression(&mut self, expression: &Expr<'a>) -> Result<(), String> {
        use BinOpKind::{Add, Concat, Div, Eq, FloorDiv, Gt, Gte, In, Lt, Lte, Mul, Ne, Pow, Rem, ScAnd, ScOr, Sub};
        match expression {
            Expr::Const(_) => Ok(()),
            Expr::Var(name) => {
                self.uses.push(Use { name: name.id.to_owned(), line: line(name.span()) });
                Ok(())
            }
            Expr::GetAttr(get) => match &get.expr {
                Expr::Var(of) => {
                    self.uses.push(Use { name: format!("{}.{}", of.id, get.name), line: line(get.span()) });
                    Ok(())
                }
                of => self.expression(of),
            },
            Expr::GetItem(get) => {
                self.expression(&get.expr)?;
                self.expression(&get.subscript_expr)
            }
            Expr::UnaryOp(operation) => match operation.op {
                UnaryOpKind::Not => self.expression(&operation.expr),
                UnaryOpKind::Neg => Err(left_out("arithmetic", operation.span())),
            },
            Expr::BinOp(operation) => match operation.op {
                ScAnd | ScOr | Concat | Eq | Ne | Lt | Lte | Gt | Gte | In => {
                    self.expression(&operation.left)?;
                    self.expression(&operation.right)
                }
                Add | Sub | Mul | Div | FloorDiv | Rem | Pow => Err(left_out("arithmetic (~ joins texts)", operation.span())),
            },
            Expr::Compare(comparison) => {
                self.expression(&comparison.expr)?;
                comparison.ops.iter().try_for_each(|operation| self.expression(&operation.expr))
            }
            Expr::IfExpr(choice) => {
                self.expression(&choice.test_expr)?;
                self.expression(&choice.true_expr)?;
                choice.false_expr.iter().try_for_each(|expression| self.expression(expression))
            }
            Expr::Filter(filter) if FILTERS.contains(&filter.name) => {
                if filter.name == "tojson" && !filter.args.is_empty() {
                    return Err(left_out("tojson with more than a value", filter.span()));
                }
                filter.expr.iter().try_for_each(|expression| self.expression(expression))?;
                self.arguments(&filter.args, filter.span())
            }
            Expr::Test(test) if TESTS.contains(&test.name) => {
                self.expression(&test.expr)?;
                self.arguments(&test.args, test.span())
            }
            Expr::Filter(other) => Err(left_out(&format!("the filter {}", other.name), other.span())),
            Expr::Test(other) => Err(left_out(&format!("the test {}", other.name), other.span())),
            Expr::Slice(other) => Err(left_out("parts like [1:2]", other.span())),
            Expr::Call(other) => Err(left_out("functions and methods", other.span())),
            Expr::List(other) => Err(left_out("lists like [a, b]", other.span())),
            Expr::Tuple(other) => Err(left_out("lists like a, b", other.span())),
            Expr::Map(other) => Err(left_out("maps like {a: b}", other.span())),
        }
    }

    fn arguments(&mut self, arguments: &[CallArg<'a>], span: Span) -> Result<(), String> {
        arguments.iter().try_for_each(|argument| match argument {
            CallArg::Pos(expression) | CallArg::Kwarg(_, expression) => self.expression(expression),
            CallArg::PosSplat(_) | CallArg::KwargSplat(_) => Err(left_out("arguments like *a", span)),
        })
    }
}

fn line(span: Span) -> usize {
    usize::from(span.start_line)
}

fn left_out(what: &str, span: Span) -> String {
    let what: String = what.chars().take(64).collect();
    format!("uses in line {} what templates here do not have: {what}", line(span))
}
