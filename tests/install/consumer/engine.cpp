// A program outside the project that generates a few tokens with the installed engine.
#include <runtime/engine/engine.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  auto engine = autoglm::engine::Engine::create(argv[1], nullptr, {.threads = 1, .max_context = 64});
  if (!engine.ok()) {
    std::cerr << engine.status().message() << "\n";
    return 1;
  }
  const auto done = (*engine)->complete({.prompt = {1, 2, 3}, .max_new_tokens = 4, .ignore_end = true});
  if (!done.ok()) {
    std::cerr << done.status().message() << "\n";
    return 1;
  }
  std::cout << "engine: " << done->tokens.size() << " tokens\n";
  return done->tokens.size() == 4 ? 0 : 1;
}
