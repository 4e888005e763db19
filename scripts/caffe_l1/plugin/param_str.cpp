// Reads the options of an L1Loss layer out of python_param { param_str: ... },
// which holds L1LossParameter in protobuf's JSON form. protobuf's own reader
// takes much that is not JSON, and the last of two equal names; this one takes
// what python_layer/l1_loss.py takes, and refuses the rest in the same words.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <locale>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "l1_loss_parameter.pb.h"

namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using l1_loss_plugin::L1LossParameter;
using std::string;
using std::u16string;
using std::vector;

const char kNotJson[] = "param_str is not valid JSON; allowed: an object such "
    "as {\"reduction\": \"MEAN\"}";

// A name, and its value as it is written.
typedef std::pair<u16string, string> Member;

// Takes JSON (RFC 8259) from a text, piece by piece.
class Json {
 public:
  explicit Json(const string& text) : text_(text), at_(0) {}

  // Whether the whole text is an object, whose members it gives.
  bool TakeObject(vector<Member>* members) {
    SkipBlanks();
    return Peek() == '{' && TakeContainer(0, members)
        && (SkipBlanks(), at_ == text_.size());
  }
  // Whether a string follows, which it gives without its escapes.
  bool TakeString(u16string* meant) {
    if (!Take('"')) { return false; }
    while (!Take('"')) {
      if (static_cast<unsigned char>(Peek()) < ' ' || !TakeLetter(meant)) {
        return false;  // also at the end, where Peek is 0
      }
    }
    return true;
  }

 private:
  static const int kMaxDepth = 100;

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Take(const char letter) {
    const bool found = Peek() == letter && at_ < text_.size();
    at_ += found;
    return found;
  }
  bool Take(const string& word) {
    const bool found = text_.compare(at_, word.size(), word) == 0;
    at_ += found ? word.size() : 0;
    return found;
  }
  void SkipBlanks() {
    at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size());
  }
  bool TakeAfterBlanks(const char letter) {
    SkipBlanks();
    return Take(letter);
  }
  bool TakeDigits(const char* digits = "0123456789", const size_t most = -1) {
    const size_t begin = at_;
    while (at_ - begin < most && at_ < text_.size()
        && string(digits).find(Peek()) != string::npos) { ++at_; }
    return at_ > begin;
  }
  bool TakeLetter(u16string* meant) {
    static const char kEscaped[] = "\"\\/bfnrt", kMeant[] = "\"\\/\b\f\n\r\t";
    if (!Take('\\')) { return TakeUtf8(meant); }
    if (Take('u')) {
      const size_t begin = at_;
      TakeDigits("0123456789abcdefABCDEF", 4);
      *meant += strtol(text_.substr(begin, at_ - begin).c_str(), NULL, 16);
      return at_ - begin == 4;
    }
    const char* const found = Peek() ? strchr(kEscaped, Peek()) : NULL;
    if (found) {
      *meant += kMeant[found - kEscaped];
      ++at_;
    }
    return found;
  }
  bool TakeUtf8(u16string* meant) {
    const unsigned char first = text_[at_++];
    const int more = first < 0xc0 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    uint32_t code = first & (more ? 0x3f >> more : 0xff);
    for (int i = 0; i < more; ++i) {
      if ((Peek() & 0xc0) != 0x80) { return false; }
      code = code << 6 | (text_[at_++] & 0x3f);
    }
    if (code > 0xffff) {
      *meant += 0xd7c0 + (code >> 10);
      code = 0xdc00 | (code & 0x3ff);
    }
    *meant += code;
    return true;
  }
  bool TakeNumber() {
    Take('-');
    if (!Take('0') && !TakeDigits()) { return false; }
    if (Take('.') && !TakeDigits()) { return false; }
    if (Take('e') || Take('E')) {
      if (!Take('+')) { Take('-'); }
      return TakeDigits();
    }
    return true;
  }
  bool TakeValue(const int depth) {
    u16string meant;
    switch (Peek()) {
      case '{': case '[':
        return depth < kMaxDepth && TakeContainer(depth, NULL);
      case '"': return TakeString(&meant);
      default: return Take("true") || Take("false") || Take("null")
          || TakeNumber();
    }
  }
  // An object or a list.
  bool TakeContainer(const int depth, vector<Member>* members) {
    const bool object = text_[at_++] == '{';
    const char close = object ? '}' : ']';
    if (TakeAfterBlanks(close)) { return true; }
    do {
      Member member;
      SkipBlanks();
      if (object && !(TakeString(&member.first) && TakeAfterBlanks(':'))) {
        return false;
      }
      SkipBlanks();
      const size_t begin = at_;
      if (!TakeValue(depth + 1)) { return false; }
      member.second = text_.substr(begin, at_ - begin);
      if (members) { members->push_back(member); }
    } while (TakeAfterBlanks(','));
    return TakeAfterBlanks(close);
  }

  const string text_;
  size_t at_;
};

// The number that is written there; false if there is none of this type.
template <typename Number>
bool Read(const string& written, Number* number) {
  std::istringstream stream(written);
  stream.imbue(std::locale::classic());  // the program's may have a comma
  return stream >> *number && stream.peek() == EOF;
}

// A string as JSON, in ASCII.
string Quoted(const u16string& meant) {
  static const char kMeant[] = "\"\\\b\f\n\r\t", kEscaped[] = "\"\\bfnrt";
  string result = "\"";
  for (size_t i = 0; i < meant.size(); ++i) {
    const int code = meant[i];
    const char* const found = code && code < 128 ? strchr(kMeant, code) : NULL;
    char escaped[8];
    snprintf(escaped, sizeof(escaped), "\\u%04x", code);
    result += found ? string("\\") + kEscaped[found - kMeant]
        : ' ' <= code && code <= '~' ? string(1, code) : escaped;
  }
  return result + "\"";
}

// A value as an error shows it.
string Shown(const string& value) {
  u16string meant;
  return value[0] == '[' ? "[...]" : value[0] == '{' ? "{...}"
      : Json(value).TakeString(&meant) ? Quoted(meant) : value;
}

// The names of a message's fields, or of an enum's values.
template <typename Descriptor, typename Item>
string Names(const Descriptor* all, const int count,
    const Item* (Descriptor::*at)(int) const) {
  string names;
  for (int i = 0; i < count; ++i) {
    names += (i ? ", " : "") + (all->*at)(i)->name();
  }
  return names;
}

// The same text in ASCII, as all names are; nothing if it is not, or if it has
// a NUL, at which protobuf would end.
string Ascii(const u16string& text) {
  string ascii;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == 0 || text[i] > 127) { return ""; }
    ascii += text[i];
  }
  return ascii;
}

// The option of that name, in either spelling; NULL if there is none.
const FieldDescriptor* Named(const string& name) {
  const Descriptor* const all = L1LossParameter::descriptor();
  const FieldDescriptor* const found = all->FindFieldByName(name);
  return found ? found : all->FindFieldByCamelcaseName(name);
}

// Sets the option to its value; returns what is allowed, if that is something
// else.
string Set(const FieldDescriptor* option, const string& value,
    L1LossParameter* options) {
  const google::protobuf::Reflection* reflection = options->GetReflection();
  int integer;
  double number;
  u16string name;
  switch (option->cpp_type()) {
    case FieldDescriptor::CPPTYPE_ENUM: {
      Json(value).TakeString(&name);
      const EnumValueDescriptor* const found =
          option->enum_type()->FindValueByName(Ascii(name));
      if (!found) {
        return Names(option->enum_type(), option->enum_type()->value_count(),
            &EnumDescriptor::value);
      }
      reflection->SetEnum(options, option, found);
      return "";
    }
    case FieldDescriptor::CPPTYPE_INT32:
      if (!Read(value, &integer)) { return "an integer"; }
      reflection->SetInt32(options, option, integer);
      return "";
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const bool beta = option->number() == L1LossParameter::kBetaFieldNumber;
      if (!Read(value, &number) || (beta && !(0 <= number
          && number <= std::numeric_limits<float>::max()))) {
        return beta ? "a number from 0 to 3.4028234663852886e+38"
            : "a finite number";
      }
      reflection->SetDouble(options, option, number);
      return "";
    }
    default:
      if (value != "true" && value != "false") { return "true or false"; }
      reflection->SetBool(options, option, value == "true");
      return "";
  }
}

}  // namespace

namespace caffe {

// Returns what is wrong, or nothing.
string L1LossReadParamStr(const string& param_str, L1LossParameter* options) {
  if (param_str.find_first_not_of(" \t\r\n") == string::npos) { return ""; }
  vector<Member> members;
  if (!Json(param_str).TakeObject(&members)) { return kNotJson; }
  const Descriptor* const all = L1LossParameter::descriptor();
  vector<string> values(all->field_count());
  for (size_t i = 0; i < members.size(); ++i) {
    const FieldDescriptor* option = Named(Ascii(members[i].first));
    if (!option) {
      return "unknown option " + Quoted(members[i].first) + "; allowed: "
          + Names(all, all->field_count(), &Descriptor::field);
    }
    string* const value = &values[option->index()];
    if (!value->empty()) {
      return "option \"" + option->name() + "\" is given twice; fix: give it "
          "once";
    }
    *value = members[i].second;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].empty() || values[i] == "null") { continue; }
    const string allowed = Set(all->field(i), values[i], options);
    if (!allowed.empty()) {
      return "option \"" + all->field(i)->name() + "\" is " + Shown(values[i])
          + "; allowed: " + allowed;
    }
  }
  return "";
}

}  // namespace caffe
