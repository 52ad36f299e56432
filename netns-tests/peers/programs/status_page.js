// Looks at a site's status page in a headless Chromium, as somebody who keeps it open: status_page.js URL DIR SECRET...
// Prints a line for each step that it has seen; whoever started it acts upon them. Ends with 1 and a reason where a
// step does not come, the page breaks its own rules, or axe-core finds a serious violation.
const fs = require("fs");
const { chromium } = require("playwright-core");

const [url, dir, ...secrets] = process.argv.slice(2);
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const LIMIT = 25_000;

const begin = Date.now();
const step = (word) => console.log(`${word} at ${((Date.now() - begin) / 1000).toFixed(1)} s`);

function must(holds, what) {
  if (!holds) throw new Error(what);
}

async function checkAccessible(page, scheme) {
  await page.emulateMedia({ colorScheme: scheme });
  // evaluate is the debugger's, so that the page's policy stands as it is
  await page.evaluate(axe);
  const found = await page.evaluate(async () => (await window.axe.run()).violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target.join(" ")).join(", ")}`));
  must(found.length === 0, `axe-core, ${scheme}: ${found.join("; ")}`);
}

async function checkFits(page, width, height, name) {
  await page.setViewportSize({ width, height });
  for (const scheme of ["light", "dark"]) {
    await checkAccessible(page, scheme);
    await page.screenshot({ path: `${dir}/${name}-${scheme}.png`, fullPage: true });
  }
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  must(wide <= width, `${wide} px wide at ${width}`);
}

async function watch(page) {
  const errors = [];
  const outside = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) outside.push(request.url());
  });
  const says = (id, text) => page.locator(`#${id}`).filter({ hasText: text }).waitFor({ timeout: LIMIT });
  await page.goto(url, { waitUntil: "domcontentloaded" });
  // an element that goes with a reload
  await page.evaluate(() => document.body.append(Object.assign(document.createElement("i"), { id: "mark" })));
  await says("verdict", "Everything works");
  step("LIVE");
  const charts = page.getByRole("img", { name: /Messages per minute over the last hour: [1-9]/ });
  await page.keyboard.press("Tab");
  must(await page.evaluate(() => document.activeElement.matches(".skip")), "the first stop is the way to the feeds");
  await checkFits(page, 390, 844, "phone");
  // the first step of the last hour comes after 10 s
  await charts.first().waitFor({ timeout: LIMIT });
  await checkFits(page, 1280, 800, "desktop");
  const content = await page.content();
  must(!secrets.some((secret) => content.includes(secret)), "a byte of a message is shown");
  step("CHECKED");
  await says("verdict", /^Down: /);
  step(`DOWN ${await page.locator("#causes").innerText()}`.replaceAll("\n", " "));
  await page.screenshot({ path: `${dir}/down.png`, fullPage: true });
  await says("lost", /^No word from the site since \d\d:\d\d\./);
  step("LOST");
  await page.locator("body:not(.stale)").waitFor({ timeout: LIMIT });
  await page.locator("#lost").waitFor({ state: "hidden", timeout: LIMIT });
  must(await page.locator("#mark").count() === 1, "the page was loaded again");
  must(errors.length === 0, `errors: ${errors.join("; ")}`);
  must(outside.length === 0, `asks elsewhere: ${outside.join(", ")}`);
  step("BACK");
}

(async () => {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    await watch(await browser.newPage());
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.log(`FAILED ${error.message}`);
  process.exitCode = 1;
});
