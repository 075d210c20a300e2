"""The losses of PyTorch's neural style tutorial, written in torch, on the same random network."""

import jax
import numpy as np
from flax import nnx

from nst_jax import VGG19, make_targets, parameters, style_transfer_loss

CONVS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")
STYLE_WEIGHT = 1e6


def tutorial_loss(torch, layers, image, content, style):
    """Sum the content loss at conv2_2 and the style losses at the first five convolutions."""

    def outputs(image):
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
        x, found = ((image - mean) / std).permute(2, 0, 1)[None], []
        for layer in layers:
            x = torch.relu(x) if isinstance(layer, torch.nn.ReLU) else layer(x)
            found += [x] if isinstance(layer, torch.nn.Conv2d) else []
        return found

    def gram(x):
        a, b, c, d = x.size()
        features = x.view(a * b, c * d)
        return torch.mm(features, features.t()).div(a * b * c * d)

    mse, maps = torch.nn.functional.mse_loss, outputs(image)
    pairs = zip(maps, outputs(style), strict=True)
    style_score = sum(mse(gram(ours), gram(theirs).detach()) for ours, theirs in pairs)
    return STYLE_WEIGHT * style_score + mse(maps[3], outputs(content)[3].detach())


def test_loss_and_gradient_are_those_of_the_tutorial(torch, reference):
    network = VGG19(rngs=nnx.Rngs(0), pooling="max", deepest="conv3_1")
    vgg = reference.import_torchvision().models.vgg
    layers = vgg.make_layers([64, 64, "M", 128, 128, "M", 256])[:-1]
    convs = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    for name, conv in zip(CONVS, convs, strict=True):
        kernel, bias = (parameters(network)[f"{name}.{leaf}"] for leaf in ("kernel", "bias"))
        conv.weight.data = torch.tensor(np.asarray(kernel.transpose(3, 2, 0, 1)))
        conv.bias.data = torch.tensor(np.asarray(bias))
    content, style, image = np.random.default_rng(0).uniform(size=(3, 24, 20, 3)).astype("f4")
    variable = torch.tensor(image, requires_grad=True)
    expected = tutorial_loss(torch, layers, variable, torch.tensor(content), torch.tensor(style))
    expected.backward()

    features, layers = (
        network.features(CONVS),
        {"content_layers": CONVS[3:4], "style_layers": CONVS},
    )
    targets = make_targets(features, content, style, **layers, style_loss="neural-style")
    weights = {"content_weight": 1.0, "style_weight": STYLE_WEIGHT, "content_loss": "mean"}
    (found, _), gradient = jax.value_and_grad(style_transfer_loss, has_aux=True)(
        image, targets, features=features, **weights
    )
    np.testing.assert_allclose(found, expected.item(), rtol=1e-4)
    np.testing.assert_allclose(gradient, variable.grad, atol=1e-4 * abs(gradient).max())
