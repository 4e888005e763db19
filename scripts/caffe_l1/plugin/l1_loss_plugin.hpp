#ifndef L1_LOSS_PLUGIN_HPP_
#define L1_LOSS_PLUGIN_HPP_

#include <string>

#include "caffe/proto/caffe.pb.h"
#include "l1_loss_parameter.pb.h"

namespace caffe {

using l1_loss_plugin::L1LossParameter;

/// @brief Reads the options; returns what is wrong with param_str, or nothing.
std::string L1LossReadParamStr(const std::string& param_str,
    L1LossParameter* options);

/// @brief The options of a layer; where begins the message if they are wrong.
L1LossParameter L1LossPluginParam(const LayerParameter& param,
    const std::string& where);

/// @brief Whether the Caffe of this process is the plugin's; says so if not.
bool L1LossPluginFits();

}  // namespace caffe

#endif  // L1_LOSS_PLUGIN_HPP_
