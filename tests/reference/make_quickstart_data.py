#!/usr/bin/env python3
"""Make the quickstart's captioned image sets.

    python3 tests/reference/make_quickstart_data.py            write pipelines/quickstart/images
    python3 tests/reference/make_quickstart_data.py --check    compare what is there with what would be written

The pictures are Twemoji graphics (CC-BY 4.0) as the npm package
emoji-datasource-twitter ships them: RGBA PNG of 64x64 pixels. They are laid
on white and written as RGB PNG with a caption file beside each; nothing is
resized. Three sets:

    base/     everything but smileys: what the tiny base model is trained on
    concept/  smileys, what the LoRA learns
    heldout/  other smileys, for the held-out loss only

A base caption is "NAME, NOUN, COLOUR": the picture's Unicode name in lower
case (or the plainer one in NAMES), the noun of its group in BASE, and its
most frequent colour unless the name holds it already. A smiley's caption is
"smiley face, " and the expression given in CONCEPT or HELDOUT.

Needs Pillow, and npm to get the package (or --package FILE.tgz). With another
Pillow the PNG bytes may differ; --check compares pixels and captions.
"""

import argparse
import hashlib
import io
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

from PIL import Image

PACKAGE = "emoji-datasource-twitter"
VERSION = "16.0.0"
SHA256 = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
SIZE = 64

# noun -> the package's short names. No smileys, and none of the pictures that come
# near one: cat faces, moons and suns with faces, chicks, the tiger's and hamster's
# yellow faces, the pumpkin, masks. No flags, people, hands, signs or writing.
BASE = {
    "animal": """
        monkey_face monkey gorilla dog dog2 poodle wolf fox_face raccoon cat2
        black_cat lion_face tiger2 leopard horse moose donkey racehorse unicorn_face
        zebra_face deer bison cow ox water_buffalo cow2 pig pig2 boar ram goat camel
        llama giraffe_face elephant mammoth rhinoceros hippopotamus mouse rat rabbit
        rabbit2 chipmunk beaver hedgehog bat bear polar_bear koala panda_face skunk
        kangaroo badger frog crocodile turtle lizard snake dragon_face sauropod t-rex""",
    "bird": """
        turkey rooster chicken bird penguin eagle duck swan owl dodo flamingo peacock
        parrot black_bird""",
    "sea animal": """
        seal whale dolphin fish tropical_fish blowfish shark octopus jellyfish crab
        lobster shrimp squid""",
    "bug": """
        snail butterfly bug ant bee beetle ladybug cricket cockroach spider scorpion
        mosquito fly worm""",
    "flower": """
        cherry_blossom lotus rosette rose hibiscus sunflower blossom tulip hyacinth""",
    "plant": """
        seedling potted_plant evergreen_tree deciduous_tree palm_tree cactus herb
        shamrock four_leaf_clover maple_leaf fallen_leaf mushroom leafless_tree""",
    "fruit": """
        grapes melon watermelon tangerine lemon lime banana pineapple mango apple
        green_apple pear peach cherries strawberry blueberries kiwifruit tomato coconut""",
    "vegetable": """
        avocado eggplant potato carrot corn hot_pepper bell_pepper cucumber leafy_green
        broccoli garlic onion peanuts beans chestnut pea_pod brown_mushroom
        root_vegetable""",
    "food": """
        bread croissant baguette_bread pretzel bagel pancakes cheese_wedge meat_on_bone
        poultry_leg cut_of_meat bacon hamburger fries pizza hotdog taco egg fried_egg
        stew green_salad popcorn butter rice_ball rice ramen sushi fried_shrimp""",
    "dessert": """
        icecream shaved_ice ice_cream doughnut cookie birthday cake cupcake pie
        chocolate_bar candy lollipop custard honey_pot""",
    "drink": """
        glass_of_milk coffee teapot tea wine_glass cocktail tropical_drink beer
        tumbler_glass cup_with_straw bubble_tea beverage_box""",
    "building": """
        classical_building hut house office school factory japanese_castle
        european_castle church mosque shinto_shrine tokyo_tower tent circus_tent""",
    "vehicle": """
        steam_locomotive bullettrain_side bullettrain_front train2 tram bus oncoming_bus
        minibus ambulance fire_engine police_car oncoming_police_car taxi oncoming_taxi
        car oncoming_automobile blue_car pickup_truck truck articulated_lorry tractor
        racing_car racing_motorcycle motor_scooter auto_rickshaw bike scooter""",
    "boat": "boat canoe speedboat passenger_ship ship",
    "aircraft": "airplane small_airplane helicopter rocket flying_saucer",
    "mountain": "snow_capped_mountain mountain volcano",
    "sky": """
        crescent_moon first_quarter_moon full_moon new_moon sunny ringed_planet star
        cloud comet rainbow""",
    "weather": """
        partly_sunny rain_cloud snow_cloud lightning tornado umbrella zap snowflake
        snowman_without_snow fire droplet ocean""",
    "ball": """
        soccer baseball softball basketball volleyball football rugby_football tennis""",
    "sport": """
        bowling table_tennis_paddle_and_ball boxing_glove ice_skate curling_stone trophy""",
    "clothing": """
        shirt jeans scarf gloves coat socks dress shorts handbag mans_shoe athletic_shoe
        high_heel boot crown tophat billed_cap""",
    "musical instrument": """
        saxophone guitar musical_keyboard trumpet violin drum_with_drumsticks bell""",
    "tool": "hammer axe pick wrench screwdriver gear shovel scissors magnet key lock",
    "book": "closed_book green_book blue_book orange_book",
    "object": """
        balloon gift bomb candle bulb gem door chair bucket teddy_bear tv camera""",
    "heart": """
        heart pink_heart orange_heart yellow_heart green_heart blue_heart
        light_blue_heart purple_heart brown_heart black_heart grey_heart broken_heart""",
    "circle": """
        red_circle large_orange_circle large_yellow_circle large_green_circle
        large_blue_circle large_purple_circle large_brown_circle black_circle""",
    "square": """
        large_red_square large_orange_square large_yellow_square large_green_square
        large_blue_square large_purple_square large_brown_square black_large_square""",
    "diamond": "large_orange_diamond large_blue_diamond",
}

# Plainer names where the Unicode name says something else than the picture shows.
NAMES = {
    "apple": "red apple",
    "articulated_lorry": "green lorry",
    "auto_rickshaw": "rickshaw",
    "basketball": "basketball",
    "beer": "mug of beer",
    "bell_pepper": "green bell pepper",
    "beverage_box": "juice box",
    "bird": "red bird",
    "black_circle": "black circle",
    "black_large_square": "black square",
    "blossom": "white daisy",
    "blue_car": "blue jeep",
    "boat": "sailboat",
    "boot": "brown boot",
    "bug": "purple caterpillar",
    "bulb": "light bulb",
    "bullettrain_front": "bullet train front",
    "bullettrain_side": "bullet train side",
    "cake": "slice of cake",
    "camel": "camel",
    "car": "red car",
    "closed_book": "red book",
    "coffee": "cup of coffee",
    "corn": "ear of corn",
    "cup_with_straw": "cup with straw",
    "curling_stone": "curling stone",
    "cut_of_meat": "steak",
    "deciduous_tree": "round green tree",
    "drum_with_drumsticks": "drum",
    "eggplant": "eggplant",
    "european_castle": "castle",
    "evergreen_tree": "fir tree",
    "first_quarter_moon": "half moon",
    "football": "american football",
    "fried_egg": "fried egg in a pan",
    "fries": "french fries",
    "full_moon": "full moon",
    "gem": "blue diamond gem",
    "gift": "gift box",
    "giraffe_face": "giraffe",
    "heart": "red heart",
    "herb": "leafy twig",
    "honey_pot": "honey pot",
    "house": "house",
    "ice_cream": "bowl of ice cream",
    "icecream": "soft ice cream cone",
    "ladybug": "ladybug",
    "lightning": "cloud with lightning",
    "lock": "padlock",
    "mans_shoe": "brown shoe",
    "musical_keyboard": "piano keys",
    "new_moon": "new moon",
    "ocean": "water wave",
    "office": "office building",
    "oncoming_automobile": "blue car front",
    "oncoming_bus": "bus front",
    "oncoming_police_car": "police car front",
    "oncoming_taxi": "taxi front",
    "orange_book": "orange book",
    "passenger_ship": "passenger ship",
    "peach": "peach",
    "pizza": "slice of pizza",
    "poultry_leg": "chicken leg",
    "racing_motorcycle": "motorcycle",
    "ramen": "bowl of noodles",
    "rice": "bowl of rice",
    "root_vegetable": "radish",
    "rosette": "orange rosette",
    "rugby_football": "rugby ball",
    "sauropod": "long neck dinosaur",
    "scissors": "scissors",
    "shinto_shrine": "red shrine gate",
    "snow_capped_mountain": "snowy mountain",
    "snowman_without_snow": "snowman",
    "softball": "softball",
    "star": "star",
    "stew": "pot of stew",
    "sunny": "sun with rays",
    "t-rex": "t-rex dinosaur",
    "table_tennis_paddle_and_ball": "table tennis paddle",
    "tangerine": "tangerine",
    "tea": "cup of green tea",
    "tennis": "tennis ball",
    "tokyo_tower": "red tower",
    "train2": "train front",
    "tropical_drink": "glass of juice",
    "truck": "delivery truck",
    "tumbler_glass": "glass of whisky",
    "tv": "television",
    "unicorn_face": "unicorn",
    "watermelon": "slice of watermelon",
    "wine_glass": "glass of red wine",
    "zap": "lightning bolt",
}

# short name -> expression
CONCEPT = {
    "grinning": "grinning",
    "smiley": "happy, big open mouth",
    "smile": "happy, smiling eyes",
    "grin": "beaming, smiling eyes, teeth",
    "joy": "laughing, tears of joy",
    "slightly_smiling_face": "slight smile",
    "upside_down_face": "slight smile, upside down",
    "blush": "smiling eyes, blushing",
    "heart_eyes": "heart eyes, open mouth",
    "kissing": "kissing",
    "kissing_closed_eyes": "kissing, closed eyes, blushing",
    "yum": "delicious, tongue out",
    "stuck_out_tongue_winking_eye": "winking, tongue out",
    "neutral_face": "neutral",
    "expressionless": "expressionless, closed eyes",
    "smirk": "smirking",
    "unamused": "unamused",
    "grimacing": "grimacing, teeth",
    "relieved": "relieved, closed eyes",
    "nerd_face": "glasses, teeth",
    "confused": "confused",
    "worried": "worried",
    "slightly_frowning_face": "slight frown",
    "open_mouth": "surprised, open mouth",
    "flushed": "flushed, wide eyes, blushing",
    "cry": "crying, tear",
    "confounded": "confounded, closed eyes",
    "angry": "angry",
}

HELDOUT = {
    "laughing": "laughing, closed eyes, open mouth",
    "wink": "winking, slight smile",
    "relaxed": "smiling, closed eyes, blushing",
    "kissing_smiling_eyes": "kissing, smiling eyes",
    "stuck_out_tongue": "happy, tongue out",
    "smiling_face_with_tear": "slight smile, tear",
    "astonished": "astonished, open mouth, teeth",
    "white_frowning_face": "frown",
    "hushed": "surprised, hushed",
    "persevere": "persevering, closed eyes",
}

# The colours that the pictures are drawn with, by name.
COLOURS = {
    "red": ("#DD2E44", "#EB5545", "#BE1931", "#A0041E", "#9E0B2B"),
    "pink": ("#F4ABBA", "#EA596E", "#FF7892", "#E8AEB2", "#FF886C"),
    "orange": ("#F4900C", "#FFAC33", "#F58E0F", "#E75A11"),
    "yellow": ("#FFCC4D", "#FDCB58", "#FFD983", "#FFE8B6", "#FFD882"),
    "green": ("#77B255", "#5C913B", "#3E721D", "#A6D388", "#226C0F"),
    "blue": ("#55ACEE", "#3B88C3", "#226699", "#5DADEC", "#5864B7", "#4289C1"),
    "light blue": ("#8CCAF7", "#BDDDF4", "#88C9F9"),
    "purple": ("#AA8ED6", "#744EAA", "#9266CC", "#553986"),
    "brown": ("#C1694F", "#662113", "#8A4B38", "#A0522D", "#7A3E2A", "#662212"),
    "tan": ("#D99E82", "#F7DECE", "#E0A878", "#F1B879", "#EDB883"),
    "black": ("#292F33", "#31373D", "#141414"),
    "grey": ("#99AAB5", "#4B545D", "#66757F", "#CCD6DD", "#9AAAB4", "#67757F"),
    "white": ("#E1E8ED", "#F5F8FA", "#FFFFFF", "#E6E7E8"),
}


def rgb(text):
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


# Pictures whose most frequent colour is not the one to name.
SEEN_AS = {"bee": "yellow", "candle": "white", "rainbow": None}

PALETTE = [(rgb(value), name) for name, values in COLOURS.items() for value in values]


def colour_of(image):
    """The name of an RGBA picture's most frequent colour, by opacity; black, grey
    and white count half, being outlines, glass and wheels."""
    weight = {}
    data = image.tobytes()
    for i in range(0, len(data), 4):
        r, g, b, a = data[i : i + 4]
        if a < 128:
            continue
        name = min(
            PALETTE,
            key=lambda p: sum((x - y) ** 2 for x, y in zip(p[0], (r, g, b))),
        )[1]
        share = 1 if name in ("black", "grey", "white") else 2
        weight[name] = weight.get(name, 0) + a * share
    return max(sorted(weight), key=weight.get)


def slug(name):
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def base_caption(entry, noun, image):
    short = entry["short_name"]
    name = NAMES.get(short, entry["name"].lower().replace("large ", ""))
    colour = SEEN_AS.get(short, colour_of(image))
    tags = [name]
    if not f" {name}".endswith(f" {noun}"):
        tags.append(noun)
    if colour and not set(name.split()) & set(COLOURS):
        tags.append(colour)
    return name, ", ".join(tags)


def get_package(path):
    if path is None:
        folder = tempfile.mkdtemp()
        subprocess.run(
            ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        path = pathlib.Path(folder) / f"{PACKAGE}-{VERSION}.tgz"
    data = pathlib.Path(path).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        sys.exit(f"{path}: sha256 {found}, expected {SHA256}")
    entries, wanted, images = {}, set(), {}
    picked = {s for names in BASE.values() for s in names.split()}
    picked |= set(CONCEPT) | set(HELDOUT)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for e in json.load(tar.extractfile("package/emoji.json")):
            if e["short_name"] in picked:
                entries[e["short_name"]] = e
                wanted.add(e["image"])
        if picked - set(entries):
            sys.exit(f"not in the package: {sorted(picked - set(entries))}")
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            if folder == "package/img/twitter/64" and name in wanted:
                images[name] = Image.open(tar.extractfile(member)).convert("RGBA")
    return entries, images


def make(entries, images):
    """{'set/name': (RGB picture, caption)}"""
    made = {}

    def add(where, name, image, caption):
        path = f"{where}/{slug(name)}"
        assert image.size == (SIZE, SIZE), path
        assert path not in made, f"two pictures would be {path}"
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(image)
        made[path] = (flat.convert("RGB"), caption)

    seen = set()
    for noun, names in BASE.items():
        for short in names.split():
            entry = entries[short]
            assert short not in seen, f"{short} twice"
            assert not entry["subcategory"].startswith(("face-", "cat-face", "person"))
            seen.add(short)
            image = images[entry["image"]]
            name, caption = base_caption(entry, noun, image)
            add("base", name, image, caption)
    assert not set(CONCEPT) & set(HELDOUT)
    for where, table in (("concept", CONCEPT), ("heldout", HELDOUT)):
        for short, expression in table.items():
            entry = entries[short]
            assert entry["subcategory"].startswith("face-")
            add(where, short, images[entry["image"]], f"smiley face, {expression}")
    pixels = {}
    for path, (image, _) in made.items():
        other = pixels.setdefault(image.tobytes(), path)
        assert other == path, f"{path} and {other} are the same picture"
    return made


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser()
    parser.add_argument("--package", help="the package's .tgz; without it, npm gets it")
    parser.add_argument("--out", default=root / "pipelines/quickstart/images", type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    args = parser.parse_args()

    made = make(*get_package(args.package))
    sets = ("base", "concept", "heldout")
    there = {
        f"{s}/{p.name}"
        for s in sets
        if (args.out / s).is_dir()
        for p in (args.out / s).iterdir()
    }
    expected = {f"{path}.{ext}" for path in made for ext in ("png", "txt")}
    if args.check:
        wrong = sorted(there ^ expected)
        for path, (image, caption) in made.items():
            if f"{path}.png" in there:
                shipped = Image.open(args.out / f"{path}.png")
                if shipped.mode != "RGB" or shipped.tobytes() != image.tobytes():
                    wrong.append(f"{path}.png")
            if f"{path}.txt" in there:
                if (args.out / f"{path}.txt").read_text() != caption + "\n":
                    wrong.append(f"{path}.txt")
        if wrong:
            sys.exit("differs: " + " ".join(wrong))
    else:
        for s in sets:
            (args.out / s).mkdir(parents=True, exist_ok=True)
        for extra in there - expected:
            (args.out / extra).unlink()
        for path, (image, caption) in made.items():
            image.save(args.out / f"{path}.png", optimize=True)
            (args.out / f"{path}.txt").write_text(caption + "\n")
    for s in sets:
        print(s, sum(path.startswith(s + "/") for path in made))


if __name__ == "__main__":
    main()
