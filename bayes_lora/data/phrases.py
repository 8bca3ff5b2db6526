"""The phrases the generated support messages are built from.

`[a|b]` is a choice, `{slot}` one of the phrases under that name in `SLOTS`; `{product}`, the thing
the message is about, is the same throughout a message. Issues are clauses, so that they can be
joined; the rest stands as sentences. Each issue under a label is clear to a human reader.
"""

ISSUES = {
    "account": (
        "i [can't|cannot|am unable to] [log in|sign in|get past the sign-in page] {since}",
        "the password reset [mail|link|email] [never arrives|has expired before i open it]",
        "[the website|your app|the site] [says|claims|insists] my email address is unknown",
        "i [want|would like|need] to change the [email|phone number|surname] in my profile",
        "i am still getting the newsletter after [unsubscribing|opting out] {times}",
        "someone [else seems to be using|got into|has taken over] my profile",
        "please [delete|erase|close] everything you [hold on|know about|have stored about] me",
        "the security code [goes to|is sent to] a phone i [no longer have|lost {ago}]",
        "i have two profiles [by accident|for some reason] and want them [merged|joined]",
        "my login was [locked|blocked|suspended] after i mistyped the password {times}",
        "the loyalty points [have been gone from|do not show up in] my profile {since}",
        "i keep being [logged out|thrown out] every {minutes} minutes",
        "the two-step verification [will not accept|rejects] any code i type",
        "your form [won't|refuses to] accept my new [surname|mobile number|email]",
        "my saved [wish list|list of favourites|order history] is gone {since}",
        "i would like to [know what data you keep|see which devices are signed in]",
    ),
    "billing": (
        "i was [charged|billed|debited] [twice|two times|double] for the {product}",
        "there is {amount} on my [statement|card] that i [can't explain|never agreed to]",
        "the invoice for the {product} [shows the wrong|has an old] [name|tax number|total]",
        "i [need|am missing|never got] [a receipt|an invoice|a proper bill] for the {product}",
        "the [discount|voucher|coupon|promo] code [wasn't taken off|was ignored at checkout]",
        "my refund of {amount} [is still outstanding|hasn't shown up] {since}",
        "you [took|deducted|charged] {amount} but the {product} is [advertised|listed] for less",
        "[my card|the bank transfer|the direct debit] [was declined|failed] although there's money",
        "the monthly plan [renewed itself|went up in price] and [nobody|no one] told me",
        "the [price|total] [changed|jumped by {amount}] between the basket and the confirmation",
        "i'd [like|prefer] to pay for the {product} in [instalments|three parts|two rates]",
        "you [charged|added] {amount} for express shipping that i [didn't pick|had unticked]",
        "i am being [reminded|dunned|chased] for {amount} that i [paid|settled] {ago}",
        "the gift card [balance is wrong|still shows {amount}|was not counted]",
        "the exchange rate you [used|applied] cost me {amount} extra",
        "sales tax was [added on top|charged twice|not shown] for the {product}",
    ),
    "delivery": (
        "my {product} [hasn't arrived|has not come|is nowhere to be seen] {since}",
        "the tracking [hasn't moved|says 'in transit'|shows nothing new] {since}",
        "{courier} [left|dumped|dropped] the [box|parcel|package] {place}",
        "the [parcel|package|box] went to [the wrong street|a stranger|my old flat]",
        "i [waited|stayed|sat] at home all {weekday} and [nobody rang|no van came]",
        "it is marked as [delivered|handed over|signed for] but i have [nothing|no parcel]",
        "{courier} [claims|says] i wasn't in, which is [untrue|nonsense|simply false]",
        "only [one|half] of the two boxes [came|turned up] {ago}",
        "i [need|would need] the {product} [before {weekday}|sooner] and wonder where it is",
        "please [send|redirect] the {product} to [my office|a locker|my neighbour] instead",
        "the pick-up shop [had already sent it back|couldn't find my parcel]",
        "the [arrival date|time slot] has been [moved|pushed back] {times}",
        "the {product} has been [stuck|lost] in [customs|a depot|some warehouse] {since}",
        "they sent my {product} to [another country|the wrong town|the other end of the country]",
        "i'd like to know [when|on what day] the {product} [leaves your warehouse|ships|gets here]",
        "the driver [threw it over the fence|couldn't find the door|refused to carry it upstairs]",
    ),
    "fault": (
        "the {product} [won't|refuses to|does not] [turn on|start|power up] {since}",
        "my {product} [dies|switches itself off|goes dead] after {minutes} minutes",
        "there is a [burning|chemical|strange] smell [coming from|when i use] the {product}",
        "the {product} makes a [buzzing|grinding|rattling|high-pitched] noise",
        "the [power button|switch|main button] of the {product} [is stuck|fell off|does nothing]",
        "a red light [blinks|keeps flashing] on the {product} and [nothing|little] helps",
        "the {product} [gets far too hot|overheats|is hot to the touch] within {minutes} minutes",
        "my {product} [stopped working|packed in|gave up|broke] {ago}",
        "the {product} [gives me small shocks|sparks when plugged in|tripped the fuse]",
        "the [plastic|casing|hinge] of the {product} [cracked|snapped] in [normal use|my hand]",
        "the {product} only works [if i hold the cable|when it feels like it|every other day]",
        "the {product} [freezes|hangs|restarts] [{times} a day|whenever i touch it]",
        "the cable of the {product} [frayed|came loose|got far too warm] {ago}",
        "the {product} is [much weaker|far slower|a lot louder] than [it was|on the first day]",
        "the manual doesn't say how to [reset|clean|descale|recalibrate] the {product}",
        "i think the [motor|battery|sensor|fan] in my {product} is [gone|dead|dying]",
    ),
}

# Another label's subject, named only to be ruled out.
RULED_OUT = {
    "account": (
        "logging in [works|is no trouble]",
        "my profile and password are [fine|in order]",
        "i can see my orders on the site",
        "this isn't about my login",
        "the app lets me in [without trouble|just fine]",
    ),
    "billing": (
        "the payment [went through|is settled]",
        "i have no [quarrel|issue] with the price",
        "the invoice is [correct|fine]",
        "i paid {amount} [without any trouble|and was happy to]",
        "this is not about money",
    ),
    "delivery": (
        "the parcel came [on time|a day early]",
        "shipping was [quick|fast|perfect]",
        "{courier} was [lovely|on time]",
        "the box [arrived|turned up] when it should",
        "the delivery itself was [great|no problem]",
    ),
    "fault": (
        "the {product} [works|runs] [well|perfectly]",
        "i have nothing [bad|negative] to say about the {product}",
        "the {product} isn't broken",
        "the {product} itself is [great|lovely|fine]",
        "nothing is wrong with the {product}",
    ),
}

RULING_OUT = (
    "{other}, but {issue}",
    "{issue}. Just so you know, {other}",
    "{other}. [However|That said|Still], {issue}",
    "[To be fair|To be clear], {other}. [It's just|The trouble is] that {issue}",
    "{issue}, although {other}",
)

# Two real problems in one message, and how often it was the first that decided the label.
TWO_PROBLEMS = (
    ("{first}. [Also|On top of that|And another thing], {second}", 0.7),
    ("{first}, and {second}", 0.6),
    ("{first}. [More important|What really bothers me]: {second}", 0.2),
    ("[Two things|Two problems]. {first}. {second}", 0.5),
    ("{first}. [By the way|Oh, and|P.S.], {second}", 0.85),
)

# One problem that belongs to two labels, or to any, and how often each was the label.
BORDERLINE = (
    (
        "i [can't|am unable to] update the card [stored|saved] in my profile",
        {"account": 5, "billing": 5},
    ),
    (
        "i can't get at my [invoices|receipts] because the site won't let me in",
        {"account": 6, "billing": 4},
    ),
    (
        "i [closed my profile|cancelled] {ago} and was still charged {amount}",
        {"account": 3, "billing": 7},
    ),
    (
        "someone [ordered|bought] a {product} [through|with] my profile",
        {"account": 6, "billing": 4},
    ),
    ("i need to change the address for the {product}", {"account": 3, "delivery": 7}),
    (
        "my profile shows an order for a {product} that i [can't track|never saw]",
        {"account": 4, "delivery": 6},
    ),
    ("the site keeps putting my old address on every parcel", {"account": 6, "delivery": 4}),
    (
        "the {product} [won't|refuses to] [pair|sync|connect] with my login",
        {"account": 4, "fault": 6},
    ),
    (
        "the app of the {product} [crashes|shows an error] when i sign in",
        {"account": 5, "fault": 5},
    ),
    (
        "i was charged {amount} for a {product} that never [came|arrived]",
        {"billing": 5, "delivery": 5},
    ),
    ("i paid extra for express and the {product} took {days} days", {"billing": 4, "delivery": 6}),
    ("i sent the {product} back {ago} and [heard|got] nothing", {"billing": 6, "delivery": 4}),
    ("you want {amount} for customs on the {product}", {"billing": 7, "delivery": 3}),
    ("the {product} is [broken|useless] and i want my {amount} back", {"billing": 4, "fault": 6}),
    (
        "the repair of the {product} [cost me|came to] {amount} under warranty",
        {"billing": 5, "fault": 5},
    ),
    ("the {product} i returned as faulty has not been refunded", {"billing": 7, "fault": 3}),
    ("the {product} [arrived|came] [smashed|cracked|in pieces]", {"delivery": 6, "fault": 4}),
    ("a part of the {product} was missing from the box", {"delivery": 5, "fault": 5}),
    (
        "the replacement for my dead {product} [hasn't come|hasn't been seen] {since}",
        {"delivery": 6, "fault": 4},
    ),
    ("you sent the wrong {product}", {"delivery": 7, "fault": 3}),
    ("the {product} order is a [complete|total] mess", {"billing": 3, "delivery": 5, "fault": 2}),
    (
        "[nothing|not one thing] works as [promised|it should]",
        {"account": 4, "delivery": 1, "fault": 5},
    ),
    ("i want to [cancel|stop] this", {"account": 4, "billing": 4, "delivery": 2}),
    ("[it|this] happened again", {"account": 2, "billing": 3, "delivery": 2, "fault": 3}),
    (
        "i am still waiting for [an answer|a reply] about the {product}",
        {"billing": 3, "delivery": 4, "fault": 3},
    ),
    ("i want to know where my [money|order] is", {"billing": 6, "delivery": 4}),
)

OPENERS = (
    "[Hi|Hello|Hey] [there|all|team],",
    "Good [morning|afternoon|evening],",
    "To whom it may concern,",
    "[Order|Ref.|Reference] {order}.",
    "Not sure [if this is the right place|who to ask], but",
    "[Sorry to bother you,|I may be doing something wrong, but]",
    "I've been a customer for {years} years [and this is a first|and rarely complain].",
    "[This is the|My] [second|third|fourth] [mail|message] about this.",
    "[Brilliant|Great|Wonderful|Lovely], [well done|thanks a lot|just what I needed].",
    "My [mother|husband|wife|son|neighbour] asked me to write.",
    "I bought the {product} {bought}.",
    "[Quick question|A small thing]:",
    "Honestly I'm [speechless|fed up|a bit lost|disappointed].",
    "I [rang|called|chatted with] [support|your hotline|{name}] {ago} and got nowhere.",
)

CLOSERS = (
    "[Please|Kindly] [sort this out|look into it|help|advise].",
    "What [should|can] I do?",
    "Could [someone|anyone] [call me back|get back to me]?",
    "I expect an answer [by|before] {weekday}.",
    "[Thanks|Many thanks|Best|Cheers|Regards], {name}",
    "Otherwise I [love|like] the shop.",
    "Is this [normal|a joke|how you treat people]?",
    "[No rush|Not urgent], just wondering.",
    "I'm [losing patience|about to give up|telling my friends].",
    "Any idea?",
    "My order number is {order}.",
    "I can send [photos|screenshots|a video] if that helps.",
    "[Five|Ten] out of ten for the [chaos|waiting music], truly.",
)

SLOTS = {
    "ago": ("{days} days ago", "on {weekday}", "last [week|month]", "[over|during] the holidays"),
    "amount": tuple(
        f"{whole}{cents} {unit}"
        for unit in ("euros", "pounds", "dollars")
        for whole, cents in (
            (7, ".90"),
            (12, ""),
            (19, ".99"),
            (34, ""),
            (48, ".50"),
            (63, ""),
            (89, ".95"),
            (120, ""),
            (149, ""),
            (260, ""),
        )
    ),
    "bought": (
        "last [week|month|autumn|spring]",
        "in [March|June|October]",
        "as a [gift|present]",
        "in the [sale|store]",
        "for [my office|the holidays|my new flat]",
    ),
    "courier": ("the courier", "the driver", "the postman", "the delivery man", "your carrier"),
    "days": ("three", "five", "six", "nine", "ten", "12", "16", "20"),
    "minutes": ("two", "three", "five", "ten", "15", "20"),
    "name": (
        "Anna",
        "Ben",
        "Carla",
        "Deniz",
        "Elif",
        "Farid",
        "Greta",
        "Hugo",
        "Ines",
        "Jamal",
        "Kofi",
        "Lena",
        "Marek",
        "Nadia",
        "Oskar",
        "Priya",
        "Rosa",
        "Sven",
        "Tomasz",
        "Yuki",
    ),
    "order": tuple(str(number) for number in range(10493, 99000, 1777)),
    "place": (
        "in the rain",
        "by the bins",
        "on the street",
        "behind the garage",
        "in a hedge",
        "with someone I don't know",
        "in the stairwell",
        "at a closed shop",
    ),
    "since": (
        "since {weekday}",
        "for {days} days [now|]",
        "since last [week|month]",
        "[ever since|since] the [update|holidays|weekend]",
        "",
    ),
    "times": ("twice", "three times", "four times", "several times", "at least five times"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "years": ("two", "four", "six", "eight", "ten", "twelve"),
}

PRODUCTS = (
    "air fryer", "baby monitor", "bike light", "blender", "camping lantern", "coffee grinder",
    "coffee machine", "cordless drill", "dash cam", "dehumidifier", "desk lamp", "digital radio",
    "doorbell camera", "e-reader", "electric shaver", "electric toothbrush", "fan heater",
    "fitness watch", "food processor", "game controller", "hair dryer", "headset",
    "heated blanket", "hedge trimmer", "kettle", "keyboard", "label printer", "microphone",
    "milk frother", "monitor", "photo frame", "portable speaker", "power bank", "projector",
    "record player", "rice cooker", "robot vacuum", "router", "sewing machine", "slow cooker",
    "smart thermostat", "soundbar", "space heater", "steam iron", "tablet", "toaster",
    "ultrasonic humidifier", "waffle maker", "weather station", "webcam",
)  # fmt: skip
