// What agents are asked, and the tool that they answer it with.
import { z } from "zod";

export const question = "杭州的天气怎么样？";
export const secondQuestion = "那北京呢？";
export const description = "查询一个城市今天的天气。";
export const parameters = z.object({ city: z.string().describe("城市的名称。") });
// The cities that the tool has been called for.
export const called = [];

export function getWeather({ city }) {
  called.push(city);
  return "晴，21 度";
}
