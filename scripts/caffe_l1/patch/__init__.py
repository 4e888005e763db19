"""Put the native layer into a Caffe checkout, all of it or nothing, and take it out again."""
