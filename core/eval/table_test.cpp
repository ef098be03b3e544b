#include "core/eval/table.h"

#include <gtest/gtest.h>

namespace autoglm::eval {
namespace {

TEST(Table, AlignsColumns) {
  Table table({"", "source", "INT4"});
  table.add_row({"size", "16.8 MB", "5.1 MB"});
  table.add_row({"任务", "91 %"});
  EXPECT_EQ(table.text(),
            "       source    INT4\n"
            "---------------------\n"
            "size  16.8 MB  5.1 MB\n"
            "任务     91 %\n");
  EXPECT_EQ(table.markdown(),
            "|  | source | INT4 |\n"
            "|---|---:|---:|\n"
            "| size | 16.8 MB | 5.1 MB |\n"
            "| 任务 | 91 % |  |\n");
}

TEST(Table, DefusesControlCharactersAndPipes) {
  Table table({"name"});
  EXPECT_TRUE(table.empty());
  table.add_row({"a\x1b[31m|b\nc"});
  EXPECT_EQ(table.text(), "name\n----------\na?[31m|b?c\n");
  EXPECT_EQ(table.markdown(), "| name |\n|---|\n| a?[31m\\|b?c |\n");
}

TEST(Table, CountsStrayBytesAsOneColumn) {
  EXPECT_EQ(display_width("a\xff"), 2);
  EXPECT_EQ(display_width("7.9×"), 4);
  EXPECT_EQ(display_width("设置"), 4);
}

}  // namespace
}  // namespace autoglm::eval
