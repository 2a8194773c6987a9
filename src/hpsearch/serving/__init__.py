"""The model as a product: logged, loaded, served; files of predictions."""
