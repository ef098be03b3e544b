#pragma once
/// The byte-level alphabet of GPT-2: every byte has one printable character of its own, so that a vocabulary of text
/// can hold any bytes. Bytes 21..7E, A1..AC and AE..FF stand for themselves; the others, in order, are U+0100 and on.
/// Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), encoder.py bytes_to_unicode().
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace autoglm::tokenizer {

/// The character of a byte, as UTF-8 of one or two bytes.
std::string_view byte_level_character(uint8_t byte);

std::string to_byte_level(std::string_view bytes);

/// The bytes that `spelled` stands for; nothing when it has a character outside the alphabet.
std::optional<std::string> from_byte_level(std::string_view spelled);

}  // namespace autoglm::tokenizer
