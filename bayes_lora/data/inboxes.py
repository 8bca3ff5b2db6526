"""The phrases the generated inboxes are built from: what people write to other places than a shop.

Written as in `phrases.py`, whose slots, greetings and closings they share. Each clause is clear
to a human reader; what is not is two of them in one message, under different labels.
"""

INBOXES = {
    "airline": {
        "baggage": (
            "my suitcase [did not come out|never appeared] on the belt",
            "a wheel of my bag was [torn off|broken] on the way",
            "i would like to [take|bring] [a bicycle|skis|a cello] on board",
            "my rucksack was sent to [another|the wrong] airport {ago}",
            "how heavy may [a hold bag|my carry-on] be",
        ),
        "booking": (
            "i [want|need] to move my flight to {weekday}",
            "my surname is [misspelt|wrong] on the ticket",
            "can i still [choose|swap] a seat by the window",
            "i would like to add [my son|a friend] to the same flight",
            "the website [won't|doesn't] let me check in for {weekday}",
        ),
        "refund": (
            "my flight was cancelled {ago} and i want my {amount} back",
            "we landed {days} hours late and are owed compensation",
            "you promised to pay back {amount} {ago} and have not",
            "i paid for a seat that i [was not given|did not get] and claim {amount}",
            "the hotel i had to pay for after the missed connection cost {amount}",
        ),
    },
    "bank": {
        "cards": (
            "my card was [swallowed|kept] by the machine {ago}",
            "the new card [has not come|isn't here yet] after {days} days",
            "i [forgot|can't remember] the number of my card",
            "the terminal [rejects|does not read] my card since {weekday}",
            "i would like a second card for my [wife|husband|daughter]",
        ),
        "credit": (
            "i would like to [borrow|finance] {amount} a month for a car",
            "can i repay my mortgage [early|faster]",
            "what interest would i pay over {years} years",
            "please lower my monthly instalment, i [lost my job|had a child] {ago}",
            "i [need|want] an offer to buy a flat before {weekday}",
        ),
        "fraud": (
            "there is a payment of {amount} on my statement that i know nothing of",
            "a man who said he was from the bank [rang|called] and wanted my password",
            "i [clicked|tapped] a link in a message {ago} and now i am worried",
            "someone has drawn {amount} in a town i have never been to",
            "my purse was stolen {ago} and the thief is shopping with it",
        ),
    },
    "clinic": {
        "doctor": (
            "i have had a [stabbing|dull] pain in my chest {since}",
            "my fever has not gone down for {days} days",
            "i [feel dizzy|see double] when i get up",
            "the tablets give me a rash, should i [stop|go on with] them",
            "my knee is swollen and i [can't|can hardly] bend it",
        ),
        "nurse": (
            "i need the [dressing|bandage] on my hand changed",
            "when can i come for the [flu jab|tetanus injection|travel vaccines]",
            "my stitches are due to come out on {weekday}",
            "i would like my blood [taken|tested] before breakfast",
            "can somebody [rinse|syringe] my ears",
        ),
        "reception": (
            "i have to [cancel|move] my appointment on {weekday}",
            "i need a sick note for my [employer|boss]",
            "i have moved and [changed|have a new] health insurance",
            "can you send my file to [a specialist|my new practice]",
            "are you open on {weekday} and is there anywhere to park",
        ),
    },
    "club": {
        "classes": (
            "is there still a [place|mat] in yoga on {weekday}",
            "the spinning [course|hour] was full {times}",
            "which [course|group] would you advise for a bad back",
            "the trainer of the dance group [did not turn up|came late] {ago}",
            "could pilates start {minutes} minutes later",
        ),
        "equipment": (
            "the treadmill by the window [stops|jerks] after {minutes} minutes",
            "a cable of the rowing machine is frayed",
            "there are never enough [dumb-bells|kettlebells] on {weekday}",
            "the shower in the changing room has been cold for {days} days",
            "my locker [won't|does not] open",
        ),
        "membership": (
            "i want to [cancel|end] my contract",
            "you took {amount} although i have been on pause",
            "do students [pay|get in for] less",
            "can my [sister|flatmate] come along for a trial",
            "i was [promised|told about] the first month for free",
        ),
    },
    "garage": {
        "bodywork": (
            "someone [scratched|dented] the left door in a car park",
            "there is rust [under|around] the wheel arch",
            "the bumper [came off|hangs down] after a small bump",
            "a stone [cracked|chipped] the windscreen {ago}",
            "the paint is [peeling|flaking] on the roof",
        ),
        "brakes": (
            "the car pulls to the right when i slow down",
            "there is a [squeal|grinding noise] whenever i stop at a light",
            "the pedal goes down [too far|nearly to the floor]",
            "the hand brake [doesn't hold|slips] on our hill",
            "it takes [ages|twice as long] to come to a halt in the rain",
        ),
        "engine": (
            "it [coughs|stutters] and dies at every junction",
            "blue smoke comes out of the exhaust on cold mornings",
            "it [needs|burns] a litre of oil every {days} days",
            "the temperature needle climbs into the red after {minutes} minutes",
            "it [won't|doesn't] start when it has been standing for {days} days",
        ),
    },
    "hotel": {
        "front desk": (
            "we [arrive|land] after midnight on {weekday}, will somebody be there",
            "could we [check out|leave] {minutes} minutes later",
            "the key card [stopped working|does not open the door]",
            "please [call|order] us a taxi for {weekday}",
            "i would like to [stay|book] {days} more nights",
        ),
        "housekeeping": (
            "there are [no|not enough] towels in the bathroom",
            "the sheets [had stains|were not changed] {ago}",
            "we need [another pillow|a second blanket|a cot for the baby]",
            "nobody has emptied the bin for {days} days",
            "the carpet [smells|is sticky] under the desk",
        ),
        "restaurant": (
            "is there anything without [gluten|nuts|milk] at breakfast",
            "i would like a table for {days} on {weekday}",
            "the soup was [cold|far too salty] {ago}",
            "can we have [a picnic|sandwiches] to take along",
            "the waiter [forgot|mixed up] our order {times}",
        ),
    },
    "landlord": {
        "today": (
            "water is running down the [kitchen wall|stairs]",
            "it smells of gas in the [hall|cellar]",
            "the whole flat has been without [heating|electricity] {since}",
            "i am locked out and the baby is inside",
            "the toilet is overflowing",
        ),
        "this week": (
            "the [fridge|dishwasher] stopped {ago}",
            "the tap in the bathroom [drips|leaks] all night",
            "one of the radiators stays [cold|lukewarm]",
            "the lamp [in the stairwell|by the front door] has been dark for {days} days",
            "the intercom [crackles|is dead]",
        ),
        "no hurry": (
            "may i [paint|wallpaper] the living room in the spring",
            "i would like a copy of the [lease|floor plan] for my files",
            "could we have a rack for bicycles some day",
            "the door of the wardrobe [creaks|sticks] a little",
            "i am thinking of [keeping a cat|growing tomatoes on the balcony]",
        ),
    },
    "library": {
        "events": (
            "when does the [reading|book club] start on {weekday}",
            "is the puppet show [free|fit for three-year-olds]",
            "i would like to [read from my novel|give a talk] at your place",
            "are there places left in the writing course",
            "i had to miss the quiz evening, will there be another",
        ),
        "loans": (
            "i can't [renew|extend] two books online",
            "you want {amount} for a novel that i returned {ago}",
            "i have waited {days} weeks for a book that i reserved",
            "how many [films|comics] may i take home at a time",
            "my dog has chewed a cook book that was due on {weekday}",
        ),
        "rooms": (
            "i [want|would like] to reserve a desk by the window for {weekday}",
            "the study on the second floor is too [loud|hot|cold]",
            "our group needs a [quiet corner|table for six] and a screen",
            "somebody leaves their coat on all the [good chairs|seats by the plugs]",
            "the [wifi|printer] upstairs [is dead|stopped] {ago}",
        ),
    },
    "school": {
        "canteen": (
            "my [son|daughter] is allergic to [fish|eggs|nuts]",
            "the noodles were [cold|undercooked] {ago}",
            "i have paid for lunch on {weekday} and we were away",
            "could there be something without meat more often",
            "the queue is so long that {minutes} minutes are left to eat",
        ),
        "office": (
            "we are moving and need to [sign our daughter off|change the address]",
            "[he|she] has a fever and stays at home until {weekday}",
            "when are the [autumn|summer] holidays next year",
            "i need a certificate for the [bus pass|tax office]",
            "how do i [enrol|register] a child for next year",
        ),
        "teacher": (
            "my daughter does not understand the [fractions|homework] for {weekday}",
            "he is being [teased|left out] by two boys in his form",
            "i think the mark for the [essay|test] is unfair",
            "could you [give her harder sums|let her sit further in front]",
            "how is my son getting on in [English|physics]",
        ),
    },
    "software": {
        "bug": (
            "the program [crashes|closes] when i open a large file",
            "the totals in the last column are wrong by {amount}",
            "since {weekday} the search finds nothing at all",
            "the window goes [white|grey] for {minutes} minutes",
            "every letter i type appears {times}",
        ),
        "question": (
            "how do i [print|save] two pages on one sheet",
            "where [are|can i find] the keyboard shortcuts",
            "does the licence cover [two computers|a laptop as well]",
            "what is the difference between [export|publish] and share",
            "which [version|edition] do i need for my old machine",
        ),
        "wish": (
            "it would be [lovely|great] to have a dark theme",
            "please let us [drag|sort] columns with the mouse",
            "i miss a [calendar|map] view more than anything",
            "an undo for deleted [rows|notes] would save my life",
            "could you add [Polish|Turkish|Swahili] some day",
        ),
    },
    "theatre": {
        "access": (
            "is there a [lift|ramp] to the circle",
            "my father uses a wheelchair, where can he sit",
            "do you have [subtitles|a hearing loop] on {weekday}",
            "can my guide dog come in",
            "how many steps are there to the [stalls|toilets]",
        ),
        "lost property": (
            "i left [an umbrella|a scarf|my glasses] in row {days}",
            "has a [black glove|silver earring] been handed in",
            "my son's [cap|toy rabbit] must be under a seat",
            "somebody took my coat and left theirs in the cloakroom",
            "i think my phone slid down the side of the chair {ago}",
        ),
        "tickets": (
            "can i [exchange|give back] two seats for {weekday}",
            "the link to print my [tickets|seats] leads nowhere",
            "is the premiere really sold out",
            "i paid {amount} and got [one seat|the wrong evening]",
            "do pensioners pay less on {weekday}",
        ),
    },
    "town hall": {
        "permits": (
            "i want to put up a [shed|fence] in my garden",
            "what do i need to [open a café|have a stall at the market]",
            "we would like to close our street for a party on {weekday}",
            "my passport runs out in {days} days",
            "may i fell the [birch|old pear tree] behind my house",
        ),
        "roads": (
            "there is a deep hole in front of number {order}",
            "the light at the crossing has been [dark|broken] for {days} days",
            "cars race through our [lane|street] at night",
            "the [sign|mirror] at the bend was knocked over {ago}",
            "nobody grits the footpath to the station",
        ),
        "waste": (
            "our bin was not emptied on {weekday}",
            "where can i take an old [mattress|sofa]",
            "somebody dumps [bags|tyres] behind the bus stop",
            "i need a larger container for [paper|glass]",
            "rats come to the compost by the [playground|bridge]",
        ),
    },
}

# Talk that fits a shop, or would contradict how urgent a problem is.
OUT_OF_PLACE = ("{product}", "{order}", "shop", "hotline", "customer", "urgent")
