// Expectations, each with a sentence.

let failed = 0;

/** Fails with the sentence where `truth` does not hold. */
export function check(sentence, truth, detail = "") {
  console.log(`${truth ? "ok  " : "FAIL"} ${sentence}${truth ? "" : ` ${detail}`}`);
  if (!truth) failed += 1;
}

/** Waits until a promise is kept; the sentence fails where it is not. */
export async function until(sentence, promise) {
  try {
    const value = await promise;
    check(sentence, true);
    return value;
  } catch (error) {
    check(sentence, false, String(error.message).split("\n").slice(0, 6).join("\n     "));
    return undefined;
  }
}

export const failures = () => failed;
