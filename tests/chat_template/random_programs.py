"""Seeded random programs in the template language, over the variables of language.VARIABLES."""

import random

TEXTS = ["a", " ", "\n", "  \n  ", "é你", "x\n\n", "\t", "-", "{ }", "<|im|>"]
STRINGS = ["''", "'a'", "'b c'", "\"it's\"", "'x\\ny'", "'你好'", "'Ab'", "' pad '", "'a,b'", "s", "blank", "spaced", "ws[0]", "d.c"]
NUMBERS = ["0", "1", "2", "-1", "7", "1.5", "0.1", "i", "neg", "f", "xs[0]", "rows[0].age", "d.b", "1e3"]
LISTS = ["[]", "[1, 2]", "xs", "ws", "empty", "['a', 1]", "rows[0].tags", "range(3)|list", "(1, 2)", "[none, true]"]
DICTS = ["{}", "d", "{'a': 1}", "rows[0]", "items", "dict(k=2)"]
OTHERS = ["none", "true", "false", "missing", "yes", "no", "nothing", "d.zz", "rows", "rows[2].tags"]

STRING_FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "reverse", "first", "last", "list", "string", "tojson", "int",
                  "float", "replace('a', 'b')", "indent(1)", "default('q')", "e", "trim('a ')", "join('.')", "safe", "indent(2, true, true)", "sort", "unique|list"]
LIST_FILTERS = ["length", "first", "last", "join(',')", "reverse|list", "sort", "unique|list", "tojson", "list", "map('string')|list", "select|list",
                "reject('none')|list", "max", "min", "sum", "batch(2)|list", "string", "tojson(indent=1)", "map('tojson')|join", "select('number')|list", "default([])", "sort(reverse=true)"]
DICT_FILTERS = ["length", "tojson", "items|list", "dictsort", "list", "first", "string", "tojson(indent=2, sort_keys=true)", "join", "dictsort(by='value')"]
NUMBER_FILTERS = ["int", "float", "abs", "round", "round(1)", "string", "tojson", "default(1)", "round(1, 'floor')"]
METHODS = ["upper()", "strip()", "split()", "split('a')", "split(',', 1)", "replace('a', 'zz')", "find('b')", "startswith('a')", "endswith(('a', 'b'))", "title()",
           "lstrip('a ')", "rstrip()", "splitlines()", "count('a')", "capitalize()", "join(['q', 'r'])", "partition(' ')", "rsplit(none, 1)", "center(9, '*')", "zfill(5)", "isalpha()", "removeprefix('a')"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "mapping", "iterable", "sequence", "boolean", "true", "false", "odd", "even",
         "divisibleby 2", "eq 1", "equalto 'a'", "ne none", "lt 3", "gt 'a'", "in [1, 'a']", "callable", "lower", "upper", "sameas none", "divisibleby(3)"]


class RandomProgram:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.names = []
        self.macros = []
        self.loops = 0

    def pick(self, *options):
        return self.random.choice(options)

    def chance(self, share):
        return self.random.random() < share

    def source(self):
        return "".join(self.statement(3) for _ in range(self.random.randint(1, 6)))

    # ---- expressions

    def string(self, depth):
        if depth <= 0 or self.chance(0.3):
            return self.random.choice(STRINGS)
        return self.pick(
            lambda: f"{self.string(depth - 1)} ~ {self.atom(depth - 1)}",
            lambda: f"({self.string(depth - 1)} + {self.string(depth - 1)})",
            lambda: f"({self.string(depth - 1)}).{self.random.choice(METHODS)}",
            lambda: f"({self.string(depth - 1)})[{self.bounds()}]",
            lambda: f"({self.string(depth - 1)} * {self.pick('0', '2', 'true', 'neg')})",
            lambda: f"('%s|%r' % ({self.atom(depth - 1)}, {self.atom(depth - 1)}))",
            lambda: f"'{{}}-{{}}'.format({self.atom(depth - 1)}, {self.atom(depth - 1)})",
        )()

    def number(self, depth):
        if depth <= 0 or self.chance(0.3):
            return self.random.choice(NUMBERS)
        return self.pick(
            lambda: f"({self.number(depth - 1)} {self.pick('+', '-', '*', '/', '//', '%')} {self.number(depth - 1)})",
            lambda: f"-{self.number(depth - 1)}",
            lambda: f"({self.number(depth - 1)} ** {self.pick('0', '1', '2', '-1', '0.5')})",
            lambda: f"({self.list(depth - 1)})|length",
            lambda: f"({self.number(depth - 1)})|{self.random.choice(NUMBER_FILTERS)}",
        )()

    def list(self, depth):
        if depth <= 0 or self.chance(0.3):
            return self.random.choice(LISTS)
        return self.pick(
            lambda: f"[{', '.join(self.atom(depth - 1) for _ in range(self.random.randint(0, 3)))}]",
            lambda: f"({self.list(depth - 1)} + {self.list(depth - 1)})",
            lambda: f"({self.random.choice(LISTS)})[{self.bounds(True)}]",  # a constant that is no list: jinja2 folds to undefined
            lambda: f"({self.string(depth - 1)}).split()",
            lambda: f"({self.dict(depth - 1)}).{self.pick('keys', 'values', 'items')}()|list",
            lambda: f"rows|map(attribute={self.pick(repr('name'), repr('age'), repr('tags'), repr('tags.0'))})|list",
            lambda: f"rows|selectattr({self.pick(repr('age'), repr('tags'))}{self.pick('', ', ' + repr('defined'))})|list",
            lambda: f"({self.list(depth - 1)})|{self.random.choice(LIST_FILTERS)}",
        )()

    def dict(self, depth):
        if depth <= 0 or self.chance(0.4):
            return self.random.choice(DICTS)
        keys = ["'a'", "'b'", "1", "none", "s", "1.0"]
        pairs = (f"{self.random.choice(keys)}: {self.atom(depth - 1)}" for _ in range(self.random.randint(0, 3)))
        return "{" + ", ".join(pairs) + "}"

    def bounds(self, slice_only=False):
        index = ["0", "1", "-1", "2", "-3", "9", "i", ""]
        if not slice_only and self.chance(0.3):
            return self.random.choice(index[:-1])
        step = self.pick("", "", ":2", ":-1", ":-2")
        return f"{self.random.choice(index)}:{self.random.choice(index)}{step}"

    def condition(self, depth):
        if depth <= 0:
            return self.pick("yes", "no", "i", "blank", "missing", "xs")
        return self.pick(
            lambda: f"{self.atom(depth - 1)} {self.pick('==', '!=')} {self.atom(depth - 1)}",
            lambda: f"{self.number(depth - 1)} {self.pick('<', '<=', '>', '>=')} {self.number(depth - 1)}",
            lambda: f"0 < {self.number(depth - 1)} <= {self.number(depth - 1)}",
            lambda: f"{self.string(depth - 1)} {self.pick('in', 'not in')} {self.pick(self.string, self.list, self.dict)(depth - 1)}",
            lambda: f"({self.any(depth - 1)}) is {self.pick('', 'not ')}{self.random.choice(TESTS)}",
            lambda: f"not {self.condition(depth - 1)}",
            lambda: f"({self.condition(depth - 1)} {self.pick('and', 'or')} {self.condition(depth - 1)})",
        )()

    def atom(self, depth):
        """An expression that binds tightly."""
        return f"({self.any(depth)})"

    def any(self, depth):
        if self.names and self.chance(0.2):
            return self.random.choice(self.names)
        if self.macros and self.chance(0.1):
            return f"{self.random.choice(self.macros)}({self.atom(depth - 1) if depth > 0 else ''})"
        if self.loops and self.chance(0.1):
            return "loop." + self.pick("index", "index0", "first", "last", "length", "revindex", "previtem", "nextitem")
        kind = self.random.random()
        if kind < 0.25:
            return self.string(depth)
        if kind < 0.45:
            return self.number(depth)
        if kind < 0.6:
            return self.list(depth)
        if kind < 0.7:
            return self.dict(depth)
        if kind < 0.8 or depth <= 0:
            return self.random.choice(OTHERS)
        return self.pick(
            lambda: self.condition(depth),
            lambda: f"{self.atom(depth - 1)} if {self.condition(depth - 1)} else {self.atom(depth - 1)}",
            lambda: f"{self.atom(depth - 1)} if {self.condition(depth - 1)}",
            lambda: f"{self.atom(depth - 1)} {self.pick('and', 'or')} {self.atom(depth - 1)}",
            lambda: f"({self.string(depth - 1)})|{self.random.choice(STRING_FILTERS)}",
            lambda: f"({self.list(depth - 1)})|{self.random.choice(LIST_FILTERS)}",
            lambda: f"({self.dict(depth - 1)})|{self.random.choice(DICT_FILTERS)}",
            lambda: f"({self.dict(depth - 1)}).get({self.string(0)}{self.pick('', ', 1')})",
            lambda: f"({self.any(depth - 1)})[{self.pick('0', '-1', repr('a'), repr('name'))}]",
            lambda: f"({self.any(depth - 1)}).{self.pick('a', 'name', 'items', 'b')}",
        )()

    # ---- statements

    def tag(self, body):
        return "{%" + self.pick("", "", "-", "+") + f" {body} " + self.pick("", "", "-", "+") + "%}"

    def statements(self, depth):
        before = len(self.names)
        out = "".join(self.statement(depth - 1) for _ in range(self.random.randint(1, 3)))
        del self.names[before:]
        return out

    def statement(self, depth):
        space = self.random.choice(TEXTS) if self.chance(0.5) else ""
        kind = self.random.random()
        if depth <= 0 or kind < 0.4:
            return space + "{{" + self.pick("", "-") + f" {self.any(3)} " + self.pick("", "-") + "}}" + self.random.choice(TEXTS)
        return space + self.pick(
            self.if_, self.for_, self.for_, self.set, self.set, self.set_block, self.macro, self.with_, self.filter_block, self.namespace, self.raw
        )(depth)

    def if_(self, depth):
        out = self.tag(f"if {self.condition(2)}") + self.statements(depth)
        if self.chance(0.4):
            out += self.tag(f"elif {self.condition(2)}") + self.statements(depth)
        if self.chance(0.5):
            out += self.tag("else") + self.statements(depth)
        return out + self.tag("endif")

    def for_(self, depth):
        name = self.pick("x", "y", "s")
        target, rows = self.pick(
            (name, self.list(2)), (name, self.string(1)), (name, self.dict(1)), ("k, v", f"({self.dict(1)}).items()"),
            (name, f"range({self.pick('3', '1, 4', '5, 0, -2')})"), ("k, v", "[(1, 2), ('a', none)]"),
        )
        guard = f" if {self.condition(1)}" if self.chance(0.2) else ""
        names = target.split(", ")
        self.names += names
        self.loops += 1
        body = self.statements(depth)
        if self.chance(0.2):
            body += self.tag(f"if {self.condition(1)}") + self.tag(self.pick("break", "continue")) + self.tag("endif") + self.statements(depth)
        self.loops -= 1
        del self.names[-len(names):]
        otherwise = self.tag("else") + self.statements(depth) if self.chance(0.2) else ""
        return self.tag(f"for {target} in {rows}{guard}") + body + otherwise + self.tag("endfor")

    def set(self, depth):
        name = self.pick("p", "q", "r")  # never a variable of the context: see jinja.h
        out = self.tag(f"set {name} = {self.any(3)}")
        self.names.append(name)
        return out

    def set_block(self, depth):
        name = self.pick("p", "q")
        out = self.tag(f"set {name}" + self.pick("", " | upper")) + self.statements(depth) + self.tag("endset")
        self.names.append(name)
        return out

    def macro(self, depth):
        name = self.pick("m1", "m2")
        if name in self.macros or self.loops:
            return ""
        self.names += ["arg", "other"]
        body = self.statements(depth)
        del self.names[-2:]
        self.macros.append(name)
        return self.tag(f"macro {name}(arg, other={self.any(1)})") + body + self.tag("endmacro")

    def with_(self, depth):
        return self.tag(f"with w = {self.any(2)}") + "{{ w }}" + self.statements(depth) + self.tag("endwith")

    def filter_block(self, depth):
        return self.tag("filter " + self.pick("upper", "trim", "replace('a', 'b')", "indent(2)", "length")) + self.statements(depth) + self.tag("endfilter")

    def namespace(self, depth):
        body = self.tag("set ns.n = ns.n + 1") + self.statements(depth)
        return self.tag("set ns = namespace(n=0)") + self.tag("for x in xs") + body + self.tag("endfor") + "{{ ns.n }}"

    def raw(self, depth):
        return self.tag("raw").replace("+%}", "%}") + "{{ x }} {% if %} " + self.tag("endraw") + "{#" + self.pick("", "-") + " c #}"
