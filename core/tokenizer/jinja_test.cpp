#include "core/tokenizer/jinja.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "core/tokenizer/jinja_text.h"

// Agreement with jinja2 over the whole language is tested in tests/chat_template; here are refusals, messages, bounds.
namespace autoglm::tokenizer::jinja {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const nlohmann::ordered_json kVariables = {{"xs", {1, 2, 3}}, {"s", "text"}, {"d", {{"a", 1}}}};

/// The text, or "error: " and the message.
std::string run(std::string_view source, const Limits& limits = {}) {
  const Result<Template> parsed = Template::parse(source);
  if (!parsed.ok()) {
    EXPECT_EQ(parsed.status().code(), StatusCode::kBadInput);
    return "parse error: " + parsed.status().message();
  }
  const Result<std::string> text = parsed->render(kVariables, limits);
  if (text.ok()) return *text;
  EXPECT_EQ(text.status().code(), StatusCode::kBadInput);
  return "error: " + text.status().message();
}

TEST(Jinja, Renders) {
  EXPECT_EQ(run("{% for x in xs %}{{ loop.index }}:{{ x * 2 }}{{ ', ' if not loop.last }}{% endfor %}"),
            "1:2, 2:4, 3:6");
  EXPECT_EQ(run("{{ d }} {{ 1.0 }} {{ none }} {{ s[::-1] }} {{ missing }}"), "{'a': 1} 1.0 None txet ");
}

TEST(Jinja, RefusesByNameWithTheLine) {
  for (const char* name :
       {"include 'x'", "import 'x' as y", "from 'x' import y", "extends 'x'", "block b", "autoescape true"}) {
    const std::string statement(name);
    EXPECT_THAT(run("\n{% " + statement + " %}"),
                AllOf(StartsWith("parse error: line 2: "), HasSubstr(statement.substr(0, statement.find(' '))),
                      HasSubstr("not supported")));
  }
  EXPECT_THAT(run("\n\n{{ s | urlize }}"), AllOf(HasSubstr("line 3"), HasSubstr("filter 'urlize'")));
  EXPECT_THAT(run("{{ s is nosuch }}"), HasSubstr("test 'is nosuch'"));
  EXPECT_THAT(run("{% for x in xs recursive %}{% endfor %}"), HasSubstr("recursive"));
  EXPECT_THAT(run("{% nosuch %}"), HasSubstr("unknown statement '{% nosuch %}'"));
  EXPECT_THAT(run("{{ s.encode() }}"), HasSubstr("'encode' of 'str' is not supported"));
  EXPECT_THAT(run("{{ joiner() }}"), HasSubstr("'joiner' is not supported"));
  EXPECT_THAT(run("{% for x in xs %}{{ loop.changed(x) }}{% endfor %}"), HasSubstr("loop.changed"));
  EXPECT_THAT(run("{{ 0x10 }}"), HasSubstr("not supported"));
  EXPECT_THAT(run("{{ '\\N{DASH}' }}"), HasSubstr("not supported"));
  EXPECT_THAT(run("{{ '\\ud800' }}"), HasSubstr("no Unicode character"));
}

TEST(Jinja, ErrorsNameTheLineThatFailed) {
  EXPECT_THAT(run("a\n{{ missing.x }}"), StartsWith("error: line 2: 'missing' is undefined"));
  EXPECT_THAT(run("{% for x in xs %}\n\n{{ x.y.z }}\n{% endfor %}"),
              StartsWith("error: line 3: 'int object' has no attribute 'y'"));
  EXPECT_THAT(run("{# a\nb #}\n{% raw %}\n{% endraw %}{{ 1 + 'a' }}"), StartsWith("error: line 4: "));
  EXPECT_THAT(run("\n{% if true %}\n{{ (1 }}"), StartsWith("parse error: line 3: "));
  EXPECT_THAT(run("{% if true %}\n\n"), HasSubstr("{% endif %}"));
  EXPECT_THAT(run("{{ d.missing + 1 }}"), HasSubstr("'dict object' has no attribute 'missing'"));
}

TEST(Jinja, RaisedMessagesAreOneBoundedLine) {
  EXPECT_EQ(run("\n{{ raise_exception('roles must\\nalternate\\x1b') }}"), "error: line 2: roles must\\nalternate ");
  EXPECT_LT(run("{{ raise_exception('x' * 1000000) }}").size(), 1100u);
}

TEST(Jinja, ValuesCannotBeChanged) {
  EXPECT_THAT(run("{{ xs.append(4) }}"), HasSubstr("cannot change values"));
  EXPECT_THAT(run("{{ d.update({}) }}"), HasSubstr("cannot change values"));
  EXPECT_EQ(run("{{ xs.append is defined }}"), "False");
  EXPECT_THAT(run("{{ s.__class__.__mro__ }}"), HasSubstr("unsafe"));
  EXPECT_THAT(run("{% set ns = namespace() %}{% set ns._x = 1 %}"), HasSubstr("underscore"));
}

TEST(Jinja, WholeNumbersDoNotOverflow) {
  EXPECT_EQ(run("{{ 9223372036854775807 }} {{ -9223372036854775807 - 1 }}"),
            "9223372036854775807 -9223372036854775808");
  const std::string lowest = "(-9223372036854775807 - 1)";
  for (const std::string& source :
       {std::string("9223372036854775807 + 1"), lowest + " - 1", lowest + " * -1", "-" + lowest, lowest + " // -1",
        std::string("2 ** 63"), lowest + " | abs", std::string("('9' * 30) | int"), std::string("1e30 | int")}) {
    EXPECT_THAT(run("{{ " + source + " }}"), HasSubstr("64 bits")) << source;
  }
  EXPECT_EQ(run("{{ " + lowest + " % -1 }}"), "0");
  EXPECT_THAT(run("{{ 99999999999999999999 }}"), HasSubstr("out of range"));
}

// ---- bounds

TEST(JinjaBounds, Steps) {
  const std::string loops =
      "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% "
      "endfor %}";
  EXPECT_THAT(run(loops, {.max_steps = 2'000'000}), HasSubstr("2000000 steps"));
  EXPECT_THAT(run("{% for a in range(50) %}{{ a }}{% endfor %}", {.max_steps = 100}), HasSubstr("steps"));
}

TEST(JinjaBounds, TextSize) {
  for (const char* source :
       {"{{ 'a' * 1000000000 }}", "{{ ('%9999d' % 1) * 100000 }}", "{{ 'a'.center(1000000000) }}",
        "{{ 'a'.zfill(9223372036854775807) }}", "{{ 'a' | indent(1000000000, true) }}",
        "{{ (['a' * 1000000] * 1000) | join('') }}", "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
        "{{ ['b' * 1000000] * 1000 }}", "{{ (['b' * 1000000] * 1000) | tojson }}",
        "{{ [1] | tojson(indent=9223372036854775807) }}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}",
        "{% set x %}{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}{% endset %}",
        "{{ ('a' * 60000000) ~ ('b' * 60000000) }}", "{{ (('&' * 30000000) | e) }}",
        "{{ ('a' * 10000000).join(['b'] * 100) }}", "{{ '{:99999999999}'.format(1) }}", "{{ '%.99999999d' % 1 }}"}) {
    EXPECT_THAT(run(source, {.max_output = 8 << 20}), AnyOf(HasSubstr("8388608 bytes"), HasSubstr("10000 characters")))
        << source;
  }
}

TEST(JinjaBounds, ListSize) {
  for (const char* source :
       {"{{ [0] * 1000000000 }}", "{{ range(100001) }}", "{{ range(0, -9223372036854775807, -1) }}",
        "{{ range(9223372036854775807) }}",
        "{% set ns = namespace(x=[0]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ [1] | batch(9223372036854775807, 0) | list }}", "{{ (('a' * 60000000) | list) | length }}",
        "{{ ('a,' * 30000000).split(',') | length }}"}) {
    EXPECT_THAT(run(source), StartsWith("error: ")) << source;
  }
  EXPECT_EQ(run("{{ range(9223372036854775800, 9223372036854775807, 5) | list }}"),
            "[9223372036854775800, 9223372036854775805]");
}

TEST(JinjaBounds, NestedData) {
  const std::string nest =
      "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = WRAP %}{% endfor %}{{ ns.x }}";
  for (const char* wrap :
       {"[ns.x]", "(ns.x,)", "{'a': ns.x}", "dict(a=ns.x)", "ns.x.copy", "{'a': ns.x}.items() | list"}) {
    std::string source = nest;
    source.replace(source.find("WRAP"), 4, wrap);
    EXPECT_THAT(run(source), StartsWith("error: ")) << wrap;
  }
  // Few nodes that print as many: each level holds the one below twice.
  const std::string doubled =
      "{% set ns = namespace(x=['a']) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  for (const char* use :
       {"{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == [ns.x[0], ns.x[1]] }}", "{{ ns.x[0] in [ns.x[1] + []] }}",
        "{{ ns.x | string | length }}", "{{ [ns.x, ns.x + []] | sort }}", "{{ [ns.x + [], ns.x] | max }}"}) {
    EXPECT_THAT(run(doubled + use, {.max_steps = 1'000'000}), StartsWith("error: ")) << use;
  }
  EXPECT_THAT(run("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}"), HasSubstr("contains itself"));
  EXPECT_EQ(run("{% set ns = namespace() %}{% set ns.me = [ns] %}{{ ns.me[0].me[0] == ns }}"), "True");
}

TEST(JinjaBounds, WorkThatGrowsWithTheSquare) {
  const std::string text = "{% set a = 'a' * 2000000 %}{% set b = 'a' * 1000000 ~ 'b' %}{% set w = 'a ' * 1000000 %}";
  for (const char* use : {"{{ b in a }}", "{{ a.find(b) }}", "{{ a.split(b) }}", "{{ a.replace(b, '') }}",
                          "{{ a.count(b) }}", "{{ a.rpartition(b) }}", "{{ w.strip(b) }}"}) {
    EXPECT_THAT(run(text + use), StartsWith("error: ")) << use;
  }
  EXPECT_EQ(
      run(text + "{{ (w + ' ' * 1000000).split() | length }} {{ w.rsplit() | length }} {{ w.rsplit(none, 9)[9] }}"),
      "1000000 1000000 a");
}

TEST(JinjaBounds, MacroRecursion) {
  EXPECT_THAT(run("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("deep"));
  EXPECT_THAT(run("{% macro a() %}{{ caller() }}{% endmacro %}{% macro b() %}{% call a() %}{{ b() }}{% endcall %}{% "
                  "endmacro %}{{ b() }}"),
              HasSubstr("deep"));
  EXPECT_THAT(run("{% macro m(x=m()) %}{% endmacro %}{{ m() }}"), HasSubstr("deep"));
  // Deep expressions inside of deep calls.
  std::string sum = "m()";
  for (int i = 0; i < 300; ++i) sum += " + 'a'";
  EXPECT_THAT(run("{% macro m() %}{{ " + sum + " }}{% endmacro %}{{ m() }}"), HasSubstr("deep"));
}

TEST(JinjaBounds, Nesting) {
  const auto repeated = [](const std::string& s, int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += s;
    return out;
  };
  constexpr int kMany = 20'000;
  for (const std::string& source : {"{{ " + repeated("(", kMany) + repeated(")", kMany) + "}}",
                                    "{{ " + repeated("[", kMany) + repeated("]", kMany) + "}}",
                                    "{{ " + repeated("{1:", kMany) + repeated("}", kMany) + "}}",
                                    "{{ " + repeated("-", kMany) + "1 }}",
                                    "{{ " + repeated("not ", kMany) + "1 }}",
                                    "{{ 1" + repeated(" + 1", kMany) + " }}",
                                    "{{ 1" + repeated(" ** 1", kMany) + " }}",
                                    "{{ s" + repeated(".a", kMany) + " }}",
                                    "{{ s" + repeated("[0]", kMany) + " }}",
                                    "{{ s" + repeated("|e", kMany) + " }}",
                                    "{{ s" + repeated("()", kMany) + " }}",
                                    "{{ 1" + repeated(" if 1 else 1", kMany) + " }}",
                                    "{{ 1" + repeated(" if 1", kMany) + " }}",
                                    "{{ 1" + repeated(" or 1", kMany) + " }}",
                                    repeated("{% if 1 %}", kMany),
                                    repeated("{% for x in xs %}", kMany),
                                    repeated("{% macro m() %}", kMany),
                                    repeated("{% set x %}", kMany),
                                    "{% set " + repeated("(", kMany) + repeated(")", kMany) + "%}",
                                    "{% for " + repeated("(", kMany) + repeated(")", kMany) + "%}"}) {
    EXPECT_THAT(run(source), AllOf(StartsWith("parse error: "), HasSubstr("deep"))) << source.substr(0, 20);
  }
  // Long, not deep.
  EXPECT_EQ(run("{{ ''" + repeated(" ~ 'a'", 1000) + " }}").size(), 1000u);
  EXPECT_EQ(run("{% if 0 %}" + repeated("{% elif 0 %}", kMany) + "{% else %}x{% endif %}"), "x");
  EXPECT_EQ(run("{{ 1" + repeated(" < 2 > 1", 1000) + " }}"), "True");
}

TEST(JinjaBounds, DeepData) {
  nlohmann::ordered_json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = nlohmann::ordered_json::array({std::move(deep)});
  const Result<Template> parsed = Template::parse("{{ x }}");
  ASSERT_TRUE(parsed.ok());
  const Result<std::string> text = parsed->render({{"x", deep}});
  ASSERT_FALSE(text.ok());
  EXPECT_THAT(text.status().message(), HasSubstr("nested too deeply"));
  EXPECT_THAT(parsed->render({{"x", UINT64_MAX}}).status().message(), HasSubstr("64 bits"));
}

TEST(Jinja, RendersFromManyThreads) {
  const Result<Template> parsed =
      Template::parse("{% for x in xs %}{% set y = x ~ 'é' %}{{ y | upper }}{% endfor %}{{ ['a', {'b': 1}] }}");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) EXPECT_EQ(*parsed->render(kVariables), "1É2É3É['a', {'b': 1}]");
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(JinjaText, InvalidUtf8IsKept) {
  const std::string bad = "a\xff\xe4\xbd z\x80";
  EXPECT_EQ(text::length(bad), 7u);
  EXPECT_EQ(text::upper(bad), "A\xff\xe4\xbd Z\x80");
  EXPECT_EQ(text::strip("\xff a \x80"), "\xff a \x80");
  EXPECT_EQ(text::repr(bad), "'" + bad + "'");
  EXPECT_EQ(text::characters(bad).size(), 7u);
}

}  // namespace
}  // namespace autoglm::tokenizer::jinja
