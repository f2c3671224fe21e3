// What structured output is asked for: an object that even a small model brings to an end.
import { z } from "zod";

export const City = z.object({
  name: z.enum(["北京", "巴黎", "杭州"]),
  people: z.number().int().min(0).max(9999),
  is_capital: z.boolean(),
});
