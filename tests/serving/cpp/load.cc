// Loads a SavedModel as TensorFlow Serving does and runs one of its signatures.
//
//   load FOLDER SIGNATURE INPUT=FILE... OUT
//
// Each FILE holds a serialised TensorProto; so does OUT/NAME.tensor, one for each output NAME.
// Exit code 1: TensorFlow's message is on stderr, with the name of its code before it.

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/public/session.h"
#include "tensorflow/core/public/session_options.h"

namespace {

[[noreturn]] void End(const absl::Status& status) {
  std::cerr << absl::StatusCodeToString(status.code()) << ": " << status.message() << std::endl;
  std::exit(1);
}

tensorflow::Tensor Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  tensorflow::TensorProto proto;
  tensorflow::Tensor tensor;
  if (!file || !proto.ParseFromString(bytes) || !tensor.FromProto(proto)) {
    End(absl::InvalidArgumentError(path + " holds no TensorProto"));
  }
  return tensor;
}

void Write(const tensorflow::Tensor& tensor, const std::string& path) {
  tensorflow::TensorProto proto;
  tensor.AsProtoField(&proto);
  std::ofstream file(path, std::ios::binary);
  file << proto.SerializeAsString();
  if (!file.flush()) End(absl::UnavailableError(path + " cannot be written"));
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 5) {
    std::cerr << "load FOLDER SIGNATURE INPUT=FILE... OUT" << std::endl;
    return 2;
  }
  const std::string folder = arguments[1], out = arguments[count - 1];
  tensorflow::SavedModelBundleLite model;
  auto status = tensorflow::LoadSavedModel(tensorflow::SessionOptions(), tensorflow::RunOptions(),
                                           folder, {"serve"}, &model);
  if (!status.ok()) End(status);
  const auto& signatures = model.GetSignatures();
  const auto found = signatures.find(arguments[2]);
  if (found == signatures.end()) {
    End(absl::NotFoundError(std::string("no signature ") + arguments[2]));
  }
  const auto& signature = found->second;

  std::vector<std::pair<std::string, tensorflow::Tensor>> inputs;
  for (int i = 3; i < count - 1; ++i) {
    const std::string argument = arguments[i];
    const auto equals = argument.find('=');
    const auto input = signature.inputs().find(argument.substr(0, equals));
    if (equals == std::string::npos || input == signature.inputs().end()) {
      End(absl::InvalidArgumentError("no input " + argument));
    }
    inputs.emplace_back(input->second.name(), Read(argument.substr(equals + 1)));
  }
  std::vector<std::string> names, wanted;
  for (const auto& [name, info] : signature.outputs()) {
    names.push_back(name);
    wanted.push_back(info.name());
  }
  std::vector<tensorflow::Tensor> outputs;
  status = model.GetSession()->Run(inputs, wanted, {}, &outputs);
  if (!status.ok()) End(status);
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::cout << names[i] << " " << tensorflow::DataTypeString(outputs[i].dtype())
              << outputs[i].shape().DebugString();
    if (outputs[i].dtype() != tensorflow::DT_STRING) {
      std::cout << " " << outputs[i].SummarizeValue(8);
    }
    std::cout << std::endl;
    Write(outputs[i], out + "/" + names[i] + ".tensor");
  }
  return 0;
}
