//! Expressions in LaTeX as far as answers have them, and whether two are of the same value.
//!
//! Two expressions are the same if they are at twelve points, to nine digits: rational functions, roots, powers and the usual
//! functions of unknowns differ somewhere if they differ. An equation, an interval or a list is no expression.

/// Deeper than this nobody writes.
const DEPTH: usize = 64;

/// Whether both are expressions, and of the same value wherever they have one.
pub fn same_value(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (Expression::parse(a), Expression::parse(b)) else {
        return false;
    };
    let mut compared = 0;
    for point in 0..POINTS {
        let (x, y) = (a.at(point), b.at(point));
        match (x.is_finite(), y.is_finite()) {
            (true, true) => {
                if (x - y).abs() > 1e-9 * x.abs().max(y.abs()).max(1e-3) {
                    return false;
                }
                compared += 1;
            }
            // Outside of what one is defined for; the other must have no value there either.
            (false, false) => {}
            _ => return false,
        }
    }
    compared > 0
}

const POINTS: u32 = 12;

/// The value of an unknown at a point: positive, different for each name, and of no simple relation to the others.
fn unknown(name: &str, point: u32) -> f64 {
    let seed = name
        .bytes()
        .fold(f64::from(point) + 1.0, |sum, b| sum * 1.618_033_988_75 + f64::from(b));
    let fraction = (seed * 0.754_877_666_246_69).fract();
    0.25 + 2.5 * fraction
}

enum Expression {
    Number(f64),
    Unknown(String),
    Sum(Vec<(bool, Expression)>),
    /// Factors, and whether each divides.
    Product(Vec<(bool, Expression)>),
    Power(Box<Expression>, Box<Expression>),
    Function(fn(f64) -> f64, Box<Expression>),
}

impl Expression {
    fn parse(text: &str) -> Option<Expression> {
        let text = text
            .replace("\\left", "")
            .replace("\\right", "")
            .replace("\\!", "")
            .replace("\\,", "");
        let mut parser = Parser { rest: &text, depth: 0 };
        let expression = parser.sum()?;
        parser.rest.trim().is_empty().then_some(expression)
    }

    fn at(&self, point: u32) -> f64 {
        match self {
            Expression::Number(x) => *x,
            Expression::Unknown(name) => unknown(name, point),
            Expression::Sum(terms) => {
                let signed = terms
                    .iter()
                    .map(|(minus, term)| if *minus { -term.at(point) } else { term.at(point) });
                signed.sum()
            }
            Expression::Product(factors) => factors.iter().fold(1.0, |product, (divides, factor)| match divides {
                true => product / factor.at(point),
                false => product * factor.at(point),
            }),
            Expression::Power(base, exponent) => power(base.at(point), exponent.at(point)),
            Expression::Function(function, of) => function(of.at(point)),
        }
    }
}

fn power(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}

struct Parser<'t> {
    rest: &'t str,
    depth: usize,
}

/// A command of one argument, and what it means.
type Function = (&'static str, fn(f64) -> f64);

const FUNCTIONS: [Function; 9] = [
    ("sin", libm::sin),
    ("cos", libm::cos),
    ("tan", libm::tan),
    ("cot", |x| 1.0 / libm::tan(x)),
    ("sec", |x| 1.0 / libm::cos(x)),
    ("csc", |x| 1.0 / libm::sin(x)),
    ("ln", libm::log),
    ("log", libm::log10),
    ("exp", libm::exp),
];

impl Parser<'_> {
    fn takes(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A command such as `\cdot`, which no letter continues.
    fn takes_command(&mut self, name: &str) -> bool {
        let rest = self.rest.trim_start();
        let after = rest.strip_prefix('\\').and_then(|rest| rest.strip_prefix(name));
        match after.filter(|after| !after.starts_with(|c: char| c.is_ascii_alphabetic())) {
            Some(after) => {
                self.rest = after;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > DEPTH {
            return None;
        }
        let mut terms = vec![(self.sign(), self.product()?)];
        loop {
            let minus = match (self.takes("+"), self.takes("-")) {
                (true, minus) => minus,
                (false, true) => true,
                (false, false) => break,
            };
            terms.push((minus ^ self.sign(), self.product()?));
        }
        self.depth -= 1;
        Some(Expression::Sum(terms))
    }

    /// Whether the signs that stand here make it negative.
    fn sign(&mut self) -> bool {
        let mut minus = false;
        loop {
            match (self.takes("-"), self.takes("+")) {
                (true, _) => minus = !minus,
                (false, true) => {}
                (false, false) => return minus,
            }
        }
    }

    fn product(&mut self) -> Option<Expression> {
        let mut factors = vec![(false, self.power()?)];
        loop {
            let multiplies = self.takes("*") || self.takes_command("cdot") || self.takes_command("times");
            let divides = !multiplies && (self.takes("/") || self.takes_command("div"));
            if multiplies || divides {
                let minus = self.sign();
                factors.push((divides, self.power()?));
                if minus {
                    factors.push((false, Expression::Number(-1.0)));
                }
                continue;
            }
            // Side by side means times; two numbers side by side are a slip.
            let next = self.rest.trim_start().chars().next();
            match next {
                Some(c) if c.is_ascii_alphabetic() || matches!(c, '(' | '\\' | '{' | '|') => {
                    let before = self.rest;
                    match self.power() {
                        Some(factor) => factors.push((false, factor)),
                        None => {
                            self.rest = before;
                            break;
                        }
                    }
                }
                _ => break,
            }
        }
        Some(Expression::Product(factors))
    }

    fn power(&mut self) -> Option<Expression> {
        let mut base = self.atom()?;
        loop {
            if self.takes("^") {
                let exponent = self.argument()?;
                base = Expression::Power(Box::new(base), Box::new(exponent));
            } else if self.takes("!") {
                base = Expression::Function(|x| libm::tgamma(x + 1.0), Box::new(base));
            } else {
                return Some(base);
            }
        }
    }

    /// What a command takes: a group, or one sign.
    fn argument(&mut self) -> Option<Expression> {
        if self.takes("{") {
            let inner = self.sum()?;
            return self.takes("}").then_some(inner);
        }
        let minus = self.sign();
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        let argument = if first.is_ascii_digit() {
            self.rest = &self.rest[1..];
            Expression::Number(f64::from(first.to_digit(10)?))
        } else {
            self.atom()?
        };
        Some(Expression::Sum(vec![(minus, argument)]))
    }

    fn atom(&mut self) -> Option<Expression> {
        for (open, close) in [("(", ")"), ("{", "}"), ("[", "]")] {
            if self.takes(open) {
                let inner = self.sum()?;
                return self.takes(close).then_some(inner);
            }
        }
        if self.takes("|") {
            let inner = self.sum()?;
            return self.takes("|").then(|| Expression::Function(f64::abs, Box::new(inner)));
        }
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            c if c.is_ascii_digit() || c == '.' => self.number(),
            '\\' => self.command(),
            c if c.is_ascii_alphabetic() => {
                self.rest = &self.rest[1..];
                Some(Expression::Unknown(self.subscripted(c.to_string())?))
            }
            _ => None,
        }
    }

    fn subscripted(&mut self, name: String) -> Option<String> {
        if !self.takes("_") {
            return Some(name);
        }
        let end = match self.rest.strip_prefix('{') {
            Some(_) => self.rest.find('}')? + 1,
            None => self.rest.chars().next()?.len_utf8(),
        };
        let (subscript, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(format!("{name}_{}", subscript.trim_matches(['{', '}'])))
    }

    fn number(&mut self) -> Option<Expression> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits.parse().ok().map(Expression::Number)
    }

    fn command(&mut self) -> Option<Expression> {
        if ["frac", "dfrac", "tfrac", "cfrac"]
            .iter()
            .any(|name| self.takes_command(name))
        {
            let (above, below) = (self.argument()?, self.argument()?);
            return Some(Expression::Product(vec![(false, above), (true, below)]));
        }
        if self.takes_command("sqrt") {
            let degree = match self.takes("[") {
                true => {
                    let degree = self.sum()?;
                    if !self.takes("]") {
                        return None;
                    }
                    degree
                }
                false => Expression::Number(2.0),
            };
            let inverse = Expression::Product(vec![(true, degree)]);
            return Some(Expression::Power(Box::new(self.argument()?), Box::new(inverse)));
        }
        if self.takes_command("pi") {
            return Some(Expression::Number(std::f64::consts::PI));
        }
        for (name, function) in FUNCTIONS {
            if self.takes_command(name) {
                return self.function(name, function);
            }
        }
        // A Greek letter is an unknown.
        let after = self.rest.strip_prefix('\\')?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let name = &after[..end];
        const LETTERS: [&str; 12] = [
            "alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "phi", "omega", "sigma", "rho",
        ];
        let name = LETTERS.into_iter().find(|letter| *letter == name)?;
        self.rest = &after[end..];
        Some(Expression::Unknown(self.subscripted(name.into())?))
    }

    /// `\sin x`, `\sin^2 x`, `\log_2 8`.
    fn function(&mut self, name: &str, function: fn(f64) -> f64) -> Option<Expression> {
        let base = match name == "log" && self.takes("_") {
            true => Some(self.argument()?),
            false => None,
        };
        let exponent = match self.takes("^") {
            true => Some(self.argument()?),
            false => None,
        };
        let of = Expression::Function(function, Box::new(self.power()?));
        let of = match base {
            Some(base) => {
                let base = Expression::Function(libm::log10, Box::new(base));
                Expression::Product(vec![(false, of), (true, base)])
            }
            None => of,
        };
        Some(match exponent {
            Some(exponent) => Expression::Power(Box::new(of), Box::new(exponent)),
            None => of,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<f64> {
        Expression::parse(text).map(|e| e.at(0))
    }

    #[test]
    fn values() {
        for (text, expected) in [
            ("2+3*4", 14.0),
            ("-2^2", -4.0),
            ("2^{-1}", 0.5),
            ("\\frac{3}{4}", 0.75),
            ("\\frac34", 0.75),
            ("3\\sqrt[3]{8}", 6.0),
            ("5!", 120.0),
            ("\\log_2 8", 3.0),
            ("|{-3}|", 3.0),
            ("2(3)", 6.0),
            ("6\\div-3", -2.0),
            ("\\sin^2 1+\\cos^2 1", 1.0),
        ] {
            let got = value(text).unwrap_or(f64::NAN);
            assert!((got - expected).abs() < 1e-12, "{text}: {got}");
        }
    }

    #[test]
    fn what_is_no_expression() {
        for text in [
            "",
            "x=5",
            "(1,2)",
            "[2,5)",
            "1..2",
            "\\text{no}",
            "2 3",
            "(",
            "3+",
            "\\foo",
        ] {
            assert!(value(text).is_none(), "{text}");
        }
        assert!(value(&"(".repeat(10_000)).is_none());
        assert!(value(&format!("{}1{}", "(".repeat(50), ")".repeat(50))).is_some());
    }

    #[test]
    fn unknowns_are_told_apart() {
        assert!(same_value("x+y", "y+x") && !same_value("x+y", "x+z"));
        assert!(same_value("\\frac{x^2-1}{x-1}", "x+1"));
        assert!(!same_value("\\sqrt{-1}", "\\sqrt{-1}"), "no value anywhere");
    }
}
