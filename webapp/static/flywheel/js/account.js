// The account pages' few scripts: copy buttons, and a sentence where a passkey does not work.
// Knows nothing of how passkeys work: allauth's own scripts do that and say "allauth.error" when they fail.

for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    source.select();
    try {
      await navigator.clipboard.writeText(source.value);
    } catch {
      // No clipboard without https: the text stays selected, for the keyboard's own copy.
      return;
    }
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

const problem = document.getElementById("passkey-problem");
if (problem) {
  const usual = problem.textContent;
  document.addEventListener("allauth.error", (event) => {
    event.preventDefault();
    problem.textContent = window.PublicKeyCredential ? usual : problem.dataset.unsupported;
    problem.hidden = false;
  });
}
