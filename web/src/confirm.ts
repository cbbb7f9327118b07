// Asks before something that can't be undone. Knows not what that is.

/** Asks; whether to go ahead. */
export function confirmed(dialog: HTMLDialogElement, question: string, verb: string): Promise<boolean> {
  dialog.querySelector(".text")!.textContent = question;
  const yes = dialog.querySelector<HTMLButtonElement>(".yes")!;
  yes.textContent = verb;
  // What was answered last time is no answer now, should it be closed with Escape.
  dialog.returnValue = "";
  dialog.showModal();
  yes.focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
