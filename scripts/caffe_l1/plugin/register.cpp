// What is the plugin's own beside the layer: where the options come from, and
// how Caffe comes to know the type.

#include <string>

#include "caffe/layer_factory.hpp"
#include "caffe/layers/l1_loss_layer.hpp"

namespace caffe {

// Caffe's own caffe.proto knows no l1_loss_param, but python_param parses in a
// layer of any type.
L1LossParameter L1LossPluginParam(const LayerParameter& param,
    const string& where) {
  L1LossParameter options;
  const string error =
      L1LossReadParamStr(param.python_param().param_str(), &options);
  LOG_IF(FATAL, !error.empty()) << where << error;
  return options;
}

template <typename Dtype>
shared_ptr<Layer<Dtype> > CreateL1LossLayer(const LayerParameter& param) {
  return shared_ptr<Layer<Dtype> >(new L1LossLayer<Dtype>(param));
}

// Asks first, since a registry of another Caffe may be of another shape. One
// that knows the type already aborts, so a second plugin steps aside.
struct PluginRegistration {
  PluginRegistration() {
    if (!L1LossPluginFits()) { return; }
    if (LayerRegistry<float>::Registry().count("L1Loss")) {
      LOG(WARNING) << "this Caffe has an L1Loss layer already; the plugin "
          << "leaves it in place";
      return;
    }
    LayerRegistry<float>::AddCreator("L1Loss", CreateL1LossLayer<float>);
    LayerRegistry<double>::AddCreator("L1Loss", CreateL1LossLayer<double>);
  }
};

static const PluginRegistration plugin_registration;

}  // namespace caffe
