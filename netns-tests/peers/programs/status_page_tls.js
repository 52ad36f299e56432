// Looks at a site's status page beyond loopback, as somebody who has the token: status_page_tls.js URL DIR TOKEN SECRET...
// Prints a line for each step; ends with 1 and a reason where one does not come.
const fs = require("fs");
const { chromium } = require("playwright-core");

const [url, dir, token, ...secrets] = process.argv.slice(2);
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const LIMIT = 25_000;

function must(holds, what) {
  if (!holds) throw new Error(what);
}

async function look(page, name) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe);
    const found = await page.evaluate(async () => (await window.axe.run()).violations
      .filter(({ impact }) => impact === "serious" || impact === "critical").map(({ id }) => id));
    must(found.length === 0, `axe-core, ${name}, ${colorScheme}: ${found.join("; ")}`);
    await page.screenshot({ path: `${dir}/${name}-${colorScheme}.png`, fullPage: true });
  }
}

async function logIn(page, text) {
  await page.getByLabel("Token").fill(text);
  await page.keyboard.press("Enter");
}

async function watch(context) {
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  await page.setViewportSize({ width: 390, height: 844 });
  await page.goto(url, { waitUntil: "domcontentloaded" });
  const form = page.getByRole("heading", { name: "Who asks?" });
  await form.waitFor({ timeout: LIMIT });
  await look(page, "login");
  await logIn(page, "guessed");
  await page.getByRole("alert").filter({ hasText: "That is not the token." }).waitFor({ timeout: LIMIT });
  await logIn(page, token);
  await page.locator("#live-text").filter({ hasText: /^Live, / }).waitFor({ timeout: LIMIT });
  must(await page.locator("#forward-orders").count() === 1, "the forward is shown");
  const [cookie] = await context.cookies();
  must(cookie.secure && cookie.httpOnly && cookie.sameSite === "Strict", JSON.stringify({ ...cookie, value: "" }));
  must(!cookie.value.includes(token), "the cookie is the token");
  must(await page.evaluate(() => document.cookie) === "", "a script reads the cookie");
  must(!page.url().includes(token), "the token is in the address");
  await page.screenshot({ path: `${dir}/beyond.png`, fullPage: true });
  const content = await page.content();
  must(![token, ...secrets].some((secret) => content.includes(secret)), "a secret is shown");
  await page.reload({ waitUntil: "domcontentloaded" });
  await page.locator("#live-text").filter({ hasText: /^Live, / }).waitFor({ timeout: LIMIT });
  console.log("LIVE");
  await form.waitFor({ timeout: LIMIT });
  must(errors.length === 0, `errors: ${errors.join("; ")}`);
  console.log("ASKED");
}

(async () => {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    // the certificate is of an authority of the test's own
    await watch(await browser.newContext({ ignoreHTTPSErrors: true }));
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.log(`FAILED ${error.message}`);
  process.exitCode = 1;
});
